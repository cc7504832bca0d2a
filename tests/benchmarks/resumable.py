"""Grids of runs that may be stopped and go on: one row of a CSV file is one run, a run in the file is not repeated.

Legend: a *run* is a frozen dataclass that says what was run; a *row* is a subclass of it, with what came out.
Not here: which runs there are and what is made of the rows (`bench_*.py`).
"""

import csv
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

__all__ = ["Results", "describe_machine", "run_or_table"]

RunT = TypeVar("RunT")
RowT = TypeVar("RowT")
DIGITS = 5  # after the point; a share of correct predictions has no more to say


class Results(Generic[RunT, RowT]):
    """The rows of one file, oldest first."""

    def __init__(self, path: Path, run_type: type[RunT], row_type: type[RowT]) -> None:
        self._path, self._run_type, self._row_type = path, run_type, row_type
        self._rows: dict[RunT, RowT] = {self._run_of(row): row for row in self._read()}

    def __iter__(self) -> Iterator[RowT]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def once(self, run: RunT, measure: Callable[[RunT], RowT]) -> RowT:
        """The row of this run: from the file, or measured now and written down."""
        if run not in self._rows:
            self._rows[run] = row = measure(run)
            is_new = not self._path.exists()
            with self._path.open("a", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(self._row_type)], lineterminator="\n")  # type: ignore[arg-type]
                if is_new:
                    writer.writeheader()
                writer.writerow({name: _written(value) for name, value in asdict(row).items()})  # type: ignore[call-overload]
        return self._rows[run]

    def _run_of(self, row: RowT) -> RunT:
        return self._run_type(**{field.name: getattr(row, field.name) for field in fields(self._run_type)})  # type: ignore[arg-type]

    def _read(self) -> Iterator[RowT]:
        if not self._path.exists():
            return
        with self._path.open(newline="") as file:
            for texts in csv.DictReader(file):
                yield self._row_type(**{f.name: f.type(texts[f.name]) for f in fields(self._row_type)})  # type: ignore[arg-type,operator]


def _written(value: Any) -> Any:
    return round(value, DIGITS) if isinstance(value, float) else value


def describe_machine() -> str:
    """For the head of a result: what the numbers were taken on."""
    return f"{platform.machine()}, one thread of two shared cores, torch {torch.__version__}"


def run_or_table(
    doc: str, run: Callable[[Namespace], None], table: Callable[[Path], str], **options: dict[str, Any]
) -> None:
    """The command line of a grid: `run --out CSV [options]` measures what is missing; `table CSV` writes the Markdown.

    Args:  options: name -> what `ArgumentParser.add_argument` takes beside it; `run` finds their values.
    """
    parser = ArgumentParser(description=doc.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("run")
    making.add_argument("--out", type=Path, required=True)
    for name, settings in options.items():
        making.add_argument(f"--{name}", **settings)
    commands.add_parser("table").add_argument("path", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.command == "run":
        run(chosen)
    else:
        text = table(chosen.path)
        chosen.path.with_suffix(".md").write_text(text)
        print(text)
