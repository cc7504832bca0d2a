"""What is wrong with a configuration, in words that say what to write instead."""

from collections.abc import Iterable, Mapping
from typing import Any

from stream_trainer.service.config_text import redacted

__all__ = ["explain"]


def explain(problem: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """One problem that pydantic found, with its path and the known keys. `schema`: the JSON Schema of the whole."""
    path = ".".join(map(str, problem["loc"]))
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known_keys(problem["loc"][:-1], schema)
        return f"{path}: unknown key; known here: {', '.join(known)}"
    told = problem["type"] in ("missing", "value_error")  # the message says what was found, or nothing was
    found = "" if told else f"; found {redacted(problem['input'], path)!r}"
    return f"{path}: {problem['msg'].removeprefix('Value error, ')}{found}"


def _known_keys(path: Iterable[Any], root: Mapping[str, Any]) -> list[str]:
    """Walk the JSON Schema to the place where an unknown key stood."""
    place = root
    for key in path:
        place = _resolved(place, root)
        named = place.get("properties", {}).get(key)
        any_name = [*place.get("patternProperties", {}).values(), place.get("additionalProperties")]
        place = named or any_name[0] or {}
    return sorted(_resolved(place, root).get("properties", {}))


def _resolved(place: Any, root: Mapping[str, Any]) -> Any:
    """Follow `$ref`, and through "this or null" to this."""
    for option in place.get("anyOf", ()):
        if option.get("type") != "null":
            place = option
            break
    return root["$defs"][place["$ref"].rpartition("/")[2]] if "$ref" in place else place
