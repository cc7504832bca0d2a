"""Do batches cost delay, and what do detectors find in known changes? Weighted ADWIN against River's detectors.

Run: OMP_NUM_THREADS=1 nice -n 15 python tests/benchmarks/bench_drift_detection.py PREFIX [--quick]
`stream-trainer drift-bench` with rows heard after batches of several sizes. Writes PREFIX.md, .csv and .svg;
committed beside this file as drift_bench_2cores_DATE. River's detectors are heard record by record. Costs are CPU
time, in turn with the training step; everything else depends on the seeds alone. Long silences, and delays at equal
false alarms: bench_drift_frontier.py.
"""

import logging
import sys
from pathlib import Path

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


def kswin(runs: int) -> list[Line]:
    """3,000 records a second: one stream of the changes that it finds soon has to do."""
    names = ["shift-0.30-after-*k", "sea", "agrawal", "stagger"]
    cases = chosen_cases(standard_cases(LEARNED_IN), names)
    lines = run_cases(cases, [row("river kswin", "kswin", 1)], runs=runs, seed=0)
    return [line for line in lines if line.label == "river kswin"]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    prefix, quick = sys.argv[1], "--quick" in sys.argv
    lines: list[Line] = []
    for groups, runs in ((["generators"], 8), (["shifts", "losses"], 3), (["controls"], 1)):
        cases = chosen_cases(standard_cases(LEARNED_IN), groups)
        lines += run_cases(cases, ROWS, runs=1 if quick else runs, seed=0)
    alone = kswin(1)
    costs = measure_costs(ROWS, batch_records=256)
    Path(f"{prefix}.csv").write_text(csv_text([*lines, *alone], costs, records_per_s=RATE))
    write_figure(lines, Path(f"{prefix}.svg"))
    shipped = parse_rows("weighted_adwin, cusum, adwin, page_hinkley, ddm, hddm_a, hddm_w", batch_records=256)
    parts = [
        markdown_text(lines, (), records_per_s=RATE, batch_records=256),
        *(costs_text(measure_costs(shipped, batch_records=n), batch_records=n) for n in (32, 256, 1024)),
        "# KSWIN, one stream of each\n\n" + markdown_text(alone, (), records_per_s=RATE, batch_records=256),
    ]
    Path(f"{prefix}.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
