"""From a YAML file to plain values: overrides, environment variables, and no secrets on the way out.

`${VAR}` takes the environment's value and fails if there is none, `${VAR:-default}` does not, `$${` stays `${`. Values
are substituted after parsing, so a variable can never add a key. Not here: what the keys mean (config.py).
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from stream_trainer.errors import ConfigError

__all__ = ["read_config_text", "redacted"]

VARIABLE = re.compile(r"\$(\$)?\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
SECRET = re.compile(r"password|secret|token|credential|jaas|private|ssl_keyfile|api_?key", re.IGNORECASE)


def read_config_text(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The file's values with `--set a.b=c` applied and variables substituted. Raises ConfigError."""
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping with the keys of a run, found {type(values).__name__}.")
    for override in overrides:
        _apply(values, override)
    return _substituted(values, "")


def redacted(values: Any, key: str = "") -> Any:
    """The same values, whatever is kept under a key that sounds secret replaced.

    >>> redacted({"client": {"sasl_plain_password": "hunter2", "client_id": "a"}})
    {'client': {'sasl_plain_password': '(hidden)', 'client_id': 'a'}}
    """
    if isinstance(values, Mapping):
        return {name: redacted(value, str(name)) for name, value in values.items()}
    if SECRET.search(key) and values is not None:
        return "(hidden)"
    if isinstance(values, list):
        return [redacted(value) for value in values]
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r}: expected key.key=value, for example batch.records_max=64.")
    place = values
    for depth, key in enumerate(keys[:-1]):
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override!r}: {'.'.join(keys[: depth + 1])} is a value, not a mapping.")
    try:
        place[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML.") from error


def _substituted(values: Any, path: str) -> Any:
    if isinstance(values, dict):
        return {key: _substituted(value, f"{path}.{key}" if path else str(key)) for key, value in values.items()}
    if isinstance(values, list):
        return [_substituted(value, f"{path}.{i}") for i, value in enumerate(values)]
    if isinstance(values, str):
        return VARIABLE.sub(lambda match: _variable(match, path), values)
    return values


def _variable(match: "re.Match[str]", path: str) -> str:
    if match.group(1):
        return match.group(0)[1:]
    value = os.environ.get(match["name"], match["default"])
    if value is None:
        raise ConfigError(
            f"{path}: the environment variable {match['name']} is not set. Set it, or write "
            f"${{{match['name']}:-default}}."
        )
    return value
