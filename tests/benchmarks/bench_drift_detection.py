"""Do batches cost delay, and does the shipped setting stay silent? Weighted ADWIN against River's detectors.

Run: OMP_NUM_THREADS=1 nice -n 15 python tests/benchmarks/bench_drift_detection.py PREFIX [--quick]
`stream-trainer drift-bench` with rows heard after batches of several sizes, and a long silence. Writes PREFIX.md,
PREFIX.csv and PREFIX.svg; committed beside this file as drift_bench_cpu_DATE. River's detectors are heard record by
record. Costs are CPU time, in turn with the training step; everything else depends on the seeds alone.
"""

import sys
from pathlib import Path

import numpy as np

from stream_trainer.drift import build_detector
from stream_trainer.service.drift_bench import Line, Row, measure_costs, parse_rows, run_cases
from stream_trainer.service.drift_bench_cases import chosen_cases, standard_cases
from stream_trainer.service.drift_bench_report import costs_text, csv_text, markdown_text, write_figure

LEARNED_IN = 32  # batches of the network that learns the generators
RATE = 1_000.0  # records/s, of the shipped setting
BARE = {"delta": 0.002, "min_effect": 0.0, "refractory_records": 0}  # River's own confidence, nothing on top
TWO_SIDED = {**BARE, "direction": "both"}
RIVER = ("adwin", "page_hinkley", "ddm", "hddm_a", "hddm_w")


def row(label: str, detector: str, batch_records: int, options: dict | None = None, *, worse_only: bool = False) -> Row:
    return Row(
        label=label, detector=detector, options=options or {}, batch_records=batch_records, worse_only=worse_only
    )


ROWS = [
    *(row(f"river {name}", name, 1) for name in RIVER),
    row("river adwin, worse only", "adwin", 1, worse_only=True),
    row("weighted_adwin δ .002 two-sided, batch 32", "weighted_adwin", 32, TWO_SIDED),
    *(row(f"weighted_adwin δ .002, batch {batch}", "weighted_adwin", batch, BARE) for batch in (32, 256, 1024)),
    *(row(f"weighted_adwin as shipped, batch {batch}", "weighted_adwin", batch) for batch in (32, 256, 1024)),
    row("cusum as shipped, batch 256", "cusum", 256),
]


def silence(millions: int) -> str:
    """Steady errors, by the hundred million."""
    text = "## silence: steady errors, batches of 8,192\n\n"
    text += "| error rate | weighted_adwin | records | alarms | bound: tests × δ |\n|---|---|---|---|---|\n"
    for p in (0.02, 0.1, 0.3):
        for label, options, n in (("as shipped", {}, millions), ("δ .002 two-sided", TWO_SIDED, millions // 4)):
            detector, rng, told = build_detector("weighted_adwin", **options), np.random.default_rng(11), 0
            n_batches = -(-n * 1_000_000 // 8192)
            for _ in range(n_batches):
                told += len(detector.update((rng.random(8192, dtype=np.float32) < p).astype(np.float32)))
            bound = n_batches * 8192 / 32 * detector.options.delta_per_test  # type: ignore[attr-defined]
            text += f"| {p} | {label} | {n_batches * 8192:,} | {told} | {bound:,.2f} |\n"
    return text


def kswin(runs: int) -> list[Line]:
    """3,000 records a second: a stream of each early shift has to do."""
    cases = chosen_cases(standard_cases(LEARNED_IN), ["shift-*-after-5k"])
    return run_cases(cases, [row("river kswin", "kswin", 1)], runs=runs, seed=0)


def main() -> None:
    prefix, quick = sys.argv[1], "--quick" in sys.argv
    lines: list[Line] = []
    for groups, runs in ((["shifts", "losses"], 5), (["generators"], 3), (["controls"], 2)):
        cases = chosen_cases(standard_cases(LEARNED_IN), groups)
        lines += run_cases(cases, ROWS, runs=1 if quick else runs, seed=0)
    costs = measure_costs(ROWS, batch_records=256)
    Path(f"{prefix}.csv").write_text(csv_text(lines, costs, records_per_s=RATE))
    write_figure(lines, Path(f"{prefix}.svg"))
    shipped = parse_rows("weighted_adwin, cusum, adwin, page_hinkley, ddm, hddm_a, hddm_w", batch_records=256)
    parts = [
        markdown_text(lines, (), records_per_s=RATE, batch_records=256),
        *(costs_text(measure_costs(shipped, batch_records=n), batch_records=n) for n in (32, 256, 1024)),
        silence(4 if quick else 100),
        "# KSWIN alone\n\n" + markdown_text(kswin(1), (), records_per_s=RATE, batch_records=256),
    ]
    Path(f"{prefix}.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
