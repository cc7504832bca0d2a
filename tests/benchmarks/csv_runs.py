"""A CSV in which one row is one run: what is there is not run again, so a long benchmark may be stopped and go on."""

import csv
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar

__all__ = ["once", "read_done"]

Key = TypeVar("Key")
Row = TypeVar("Row")


def read_done(path: Path, run: Callable[..., Key], row: type[Row]) -> dict[Key, Row]:
    """What has been run, by what was run; `run` and `row` are dataclasses, and the fields of `run` are in `row`."""
    if not path.exists():
        return {}
    found: dict[Key, Row] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            done = row(**{field.name: field.type(line[field.name]) for field in fields(row)})  # type: ignore[arg-type]
            found[run(**{field.name: getattr(done, field.name) for field in fields(run)})] = done  # type: ignore[arg-type]
    return found


def once(run: Key, done: dict[Key, Row], path: Path, measure: Callable[[Key], Row], row: type[Row]) -> Row:
    """The row of `run`: from `done`, or measured now and written at once."""
    if run not in done:
        done[run] = measure(run)
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(row)], lineterminator="\n")  # type: ignore[arg-type]
            if new:
                writer.writeheader()
            values = asdict(done[run])  # type: ignore[call-overload]
            writer.writerow({name: round(v, 5) if isinstance(v, float) else v for name, v in values.items()})
    return done[run]
