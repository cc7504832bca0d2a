"""What is wrong with one record, in words an operator can act on.

A detail is always one printable line: values come from strangers, and end up in logs, dead letters and terminals.
"""

from typing import NamedTuple

from stream_trainer.types import RejectReason

__all__ = ["Fault", "described", "number_fault"]

SHOWN_CHARACTERS = 40  # enough to recognise a value; a record of a megabyte must not become a log line of a megabyte


class Fault(NamedTuple):
    """Why a record is rejected: the reason becomes a metric label, the detail a line for people."""

    reason: RejectReason
    detail: str


def described(value: object) -> str:
    """A value that came, named by its JSON kind, shortened, control characters escaped.

    >>> described("a\\nb"), described([1, 2]), described(None), described(True)
    ("the string 'a\\\\nb'", 'an array of 2', 'null', 'true')
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str() if len(value) > SHOWN_CHARACTERS:
            return f"the string {value[:SHOWN_CHARACTERS]!r}... of {len(value)} characters"
        case str():
            return f"the string {value!r}"
        case int() | float():
            digits = str(value)
            return f"the number {digits[:SHOWN_CHARACTERS]}{'...' if len(digits) > SHOWN_CHARACTERS else ''}"
        case list():
            return f"an array of {len(value)}"
        case _:
            return "an object"


def number_fault(field: str, value: object) -> Fault:
    """The value is a number, and float32 cannot hold it."""
    return Fault(RejectReason.TOO_LARGE_NUMBER, f"{field}: expected a number within ±3.4e38, came {described(value)}")
