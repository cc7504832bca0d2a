"""The streams of `stream-trainer drift-bench`: what each case is made of, and cases from a table of the user's own.

Five groups. shifts: errors of .10 that become .12, .15 or .30 early and late in the life of a service. losses: the
same for a number. generators: five concepts of 10,000 records each, learned by the default network. controls: nothing
changes for good. table: a model of CONFIG on rows of FILE in random order, with one change in the middle, or none.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np

from stream_trainer.contracts import Decoder
from stream_trainer.decoding import build_decoder
from stream_trainer.drift.evaluate import (
    CONCEPTS,
    INJECTIONS,
    Stream,
    Table,
    autocorrelated_errors,
    errors_with_changes,
    losses_with_changes,
    piecewise,
    prequential_errors,
    seasonal_errors,
    shuffled,
)
from stream_trainer.errors import ConfigError
from stream_trainer.models import TorchOptions, build_model
from stream_trainer.schema import Target, TargetKind
from stream_trainer.service.config import RunConfig
from stream_trainer.service.wiring import open_file
from stream_trainer.streams.files import FileSource
from stream_trainer.types import Batch, ClosedBy, RawBatch

__all__ = ["Case", "chosen_cases", "standard_cases", "table_cases"]

log = logging.getLogger(__name__)
CLASSES = Target.binary("y")
NUMBER = Target(name="y", kind=TargetKind.NUMBER)
SHIFT_HORIZON_RECORDS = 60_000
CONCEPT_RECORDS, CONCEPT_HORIZON_RECORDS = 10_000, 2_000
CONTROL_RECORDS = 200_000
ROWS_MIN = 2_000  # half of them before the change: less is no stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Streams of one kind, one for each seed."""

    group: str
    name: str
    target: Target  # what the values are errors of: shares have a range, errors of a number have none
    horizon_records: int
    stream: Callable[[int], Stream]


def standard_cases(batch_records: int) -> list[Case]:
    """`batch_records`: of the network that learns the generators."""
    return [*_shifts(), *_losses(), *(_generated(name, batch_records) for name in CONCEPTS), *_controls()]


def chosen_cases(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """Those whose group or name fits one of the patterns, as file names are matched. Raises: ConfigError: none does."""
    chosen = [c for c in cases if any(fnmatch(c.group, p) or fnmatch(c.name, p) for p in patterns)]
    if not chosen:
        groups = ", ".join(dict.fromkeys(case.group for case in cases))
        names = ", ".join(case.name for case in cases)
        raise ConfigError(f"--streams {','.join(patterns)}: fits none of the groups {groups} nor the names {names}.")
    return chosen


def _shifts() -> list[Case]:
    def case(before: int, rate: float) -> Case:
        pieces = ((before, 0.1), (SHIFT_HORIZON_RECORDS, rate))
        return Case(
            group="shifts",
            name=f"shift-{rate:.2f}-after-{before // 1000}k",
            target=CLASSES,
            horizon_records=SHIFT_HORIZON_RECORDS,
            stream=lambda seed: errors_with_changes(*pieces, seed=seed),
        )

    return [case(before, rate) for before in (5_000, 100_000) for rate in (0.12, 0.15, 0.30)]


def _losses() -> list[Case]:
    def case(spread: float) -> Case:
        pieces = ((20_000, 1.0), (20_000, spread))
        return Case(
            group="losses",
            name=f"losses-x{spread:g}",
            target=NUMBER,
            horizon_records=20_000,
            stream=lambda seed: losses_with_changes(*pieces, seed=seed),
        )

    return [case(spread) for spread in (1.1, 1.25, 2.0)]


def _generated(name: str, batch_records: int) -> Case:
    def stream(seed: int) -> Stream:
        table = piecewise(CONCEPTS[name], CONCEPT_RECORDS, seed)
        return prequential_errors(build_model(table.schema, "torch", TorchOptions(seed=seed)), table, batch_records)

    return Case(group="generators", name=name, target=CLASSES, horizon_records=CONCEPT_HORIZON_RECORDS, stream=stream)


def _controls() -> list[Case]:
    n = CONTROL_RECORDS
    streams: dict[str, Callable[[int], Stream]] = {
        "iid": lambda seed: errors_with_changes((n, 0.1), seed=seed),
        "wandering-0.005": lambda seed: autocorrelated_errors(n, rate=0.1, spread=0.005, seed=seed),
        "wandering-0.02": lambda seed: autocorrelated_errors(n, rate=0.1, spread=0.02, seed=seed),
        "seasonal-0.005": lambda seed: seasonal_errors(n, rate=0.1, amplitude=0.005, seed=seed),
        "seasonal-0.02": lambda seed: seasonal_errors(n, rate=0.1, amplitude=0.02, seed=seed),
    }
    return [
        Case(group="controls", name=name, target=CLASSES, horizon_records=SHIFT_HORIZON_RECORDS, stream=stream)
        for name, stream in streams.items()
    ]


# ---------------------------------------------------------------- a table of the user's own


def table_cases(config: RunConfig, path: str, *, records_max: int, batch_records: int) -> list[Case]:
    """Each model of `config` on rows of the file at `path`: without a change, and with each that the target allows.

    Raises: ConfigError: no such file, or fewer than 2,000 rows that can be decoded.
    """
    table = _read(config, path)
    if len(table) < ROWS_MIN:
        raise ConfigError(f"{path}: {len(table):,} rows could be decoded; expected at least {ROWS_MIN:,}.")
    n = min(records_max, len(table))
    number = table.schema.target.kind is TargetKind.NUMBER
    changes = ["unchanged", *(["feature_permutation"] if number else sorted(INJECTIONS))]

    def case(model: str, change: str) -> Case:
        chosen = config.models[model]
        options = chosen.torch or chosen.river

        def stream(seed: int) -> Stream:
            rows = shuffled(table, n, seed)
            if change != "unchanged":
                rows = INJECTIONS[change](rows, n // 2, seed)
            fresh = build_model(table.schema, "torch" if chosen.torch else "river", options)
            return prequential_errors(fresh, rows, batch_records)

        name = f"{model}-{change}"
        return Case(group="table", name=name, target=table.schema.target, horizon_records=n - n // 2, stream=stream)

    return [case(model, change) for model in config.models for change in changes]


def _read(config: RunConfig, path: str) -> Table:
    """The whole file, as the service would decode it; what it would reject is left out and counted in the log."""
    schema, source = config.schema_.build(), open_file(config, path, None)
    name = source.start(None).popitem()[0].topic
    decoder = _decoder(config, source)
    parts: list[Batch] = []
    n_rejects = 0
    while not source.exhausted:
        chunks = tuple(source.poll(0.0, 8192))
        if sum(map(len, chunks)):
            decoded = decoder.decode(RawBatch(chunks=chunks, next_offsets={}, closed_by=ClosedBy.RECORDS))
            n_rejects += len(decoded.rejects)
            parts.append(decoded.batch)
    source.close()
    if n_rejects:
        log.warning("%s: %d rows were rejected; stream-trainer replay says why", path, n_rejects)
    if not parts:
        raise ConfigError(f"{path}: the file holds no records.")
    return Table(name=name, schema=schema, records=_joined(parts))


def _decoder(config: RunConfig, source: FileSource) -> Decoder:
    limits = {"record_bytes_max": config.schema_.record_bytes_max}
    if source.format == "csv":
        return build_decoder("csv", config.schema_.build(), header=source.header, **limits)
    return build_decoder("json", config.schema_.build(), **limits)


def _joined(parts: Sequence[Batch]) -> Batch:
    missing = [part.missing_NF for part in parts if part.missing_NF is not None]
    return Batch(
        x_NF=np.concatenate([part.x_NF for part in parts]),
        missing_NF=np.concatenate(missing) if missing else None,
        category_NC=np.concatenate([part.category_NC for part in parts]),
        y_N=np.concatenate([part.y_N for part in parts]),
        arrays={name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays},
        timestamp_ms_N=np.concatenate([part.timestamp_ms_N for part in parts]),
    )
