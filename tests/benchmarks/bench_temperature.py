"""Are the stated probabilities true? Log-loss and calibration error without and with the temperature of `TorchModel`.

One pass over the streams of `bench_step_records.py`, every other default. The temperature changes no step, so both
columns are of the same network. Calibration error: mean over records of |share that was right - stated probability| in
15 bins of the probability of the likeliest class.

    python tests/benchmarks/bench_temperature.py run --out tests/benchmarks/temperature_DATE.csv
    python tests/benchmarks/bench_temperature.py table tests/benchmarks/temperature_DATE.csv
"""

import itertools
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bench_batch_choice import answers, log_loss, records_of
from bench_step_records import STREAMS
from resumable import Results, describe_machine, run_or_table

from stream_trainer.models import TorchModel, TorchOptions

NORMS = ("adaptive_batch_renorm", "layer", "none")
BATCHES = (256, 64, 16, 1)  # dear last
BINS = 15


@dataclass(frozen=True, kw_only=True)
class Run:
    data: str
    norm: str
    batch: int
    calibrated: int  # 1 or 0
    seed: int


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    log_loss: float
    calibration_error: float
    accuracy: float


def measure(run: Run) -> Row:
    schema, whole = records_of(run.data, *STREAMS[run.data], run.seed)
    model = TorchModel(schema, TorchOptions(norm=run.norm, calibrated=bool(run.calibrated), seed=run.seed))
    p_NK = answers(model, whole, str(run.batch))
    right_N = p_NK.argmax(axis=1) == whole.y_N
    return Row(
        **asdict(run),
        log_loss=log_loss(p_NK, whole.y_N),
        calibration_error=calibration_error(p_NK.max(axis=1), right_N),
        accuracy=float(right_N.mean()),
    )


def calibration_error(stated_N: np.ndarray, right_N: np.ndarray) -> float:
    bin_N = np.minimum((stated_N * BINS).astype(int), BINS - 1)
    gaps_B = np.bincount(bin_N, weights=right_N - stated_N, minlength=BINS)
    return float(np.abs(gaps_B).sum() / len(stated_N))


def run_all(path: Path, seeds: int, sizes: list[int]) -> None:
    results = Results(path, Run, Row)
    for seed, batch, norm, data, calibrated in itertools.product(range(1, seeds + 1), sizes, NORMS, STREAMS, (0, 1)):
        results.once(Run(data=data, norm=norm, batch=batch, calibrated=calibrated, seed=seed), measure)


def table(path: Path) -> str:
    rows = list(Results(path, Run, Row))
    found: dict[tuple[str, int, str], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row.norm, row.batch, row.data][row.calibrated].append(row)
    lines = [
        "# Are the stated probabilities true?",
        "",
        f"From `{path.name}` ({len(rows)} runs, seeds {', '.join(map(str, sorted({row.seed for row in rows})))}; "
        f"{describe_machine()}). What is measured, and how: `bench_temperature.py`. Without → with temperature: "
        "log-loss, and in brackets the calibration error in points.",
        "",
        "| norm | batch | " + " | ".join(STREAMS) + " |",
        "|---" * (len(STREAMS) + 2) + "|",
    ]
    for norm, batch in itertools.product(NORMS, sorted(BATCHES)):
        cells = [_cell(found[norm, batch, data]) for data in STREAMS]
        if any(cells):
            lines.append(f"| {norm} | {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(runs: dict[int, list[Row]]) -> str:
    if len(runs[0]) == 0 or len(runs[0]) != len(runs[1]):
        return ""
    loss = [np.mean([row.log_loss for row in runs[i]]) for i in (0, 1)]
    error = [100 * np.mean([row.calibration_error for row in runs[i]]) for i in (0, 1)]
    return f"{loss[0]:.3f} → {loss[1]:.3f} ({error[0]:.1f} → {error[1]:.1f})"


def main() -> None:
    run_or_table(
        __doc__,
        lambda chosen: run_all(chosen.out, chosen.seeds, chosen.batches),
        table,
        seeds={"type": int, "default": 3},
        batches={"type": int, "nargs": "+", "default": list(BATCHES)},
    )


if __name__ == "__main__":
    main()
