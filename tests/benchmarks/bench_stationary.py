"""What does stream_adamw cost where nothing changes? Against Adam at the best rate of three, on shuffled streams.

Shuffled Fashion-MNIST and covtype, batches of 16, the network and the norms of `bench_norm_grid.py`. Adam and AdamW
(with torch's decay) run at three rates, of which the best of each stream and norm is taken, on the very seeds of the
table: that favours them. Ours runs at its default, lr 1e-3 with the pull, and is tuned alike, too. Runs are kept in a
CSV.

    python tests/benchmarks/bench_stationary.py run --out tests/benchmarks/stationary_DATE.csv
    python tests/benchmarks/bench_stationary.py table tests/benchmarks/stationary_DATE.csv
"""

import itertools
import platform
from pathlib import Path

import numpy as np
import torch
from bench_norm_grid import Row, Run, measure
from resumable import Results, run_or_table

RECORDS, CUT = 20_000, "16"
STREAMS = ("fashion", "covtype")
NORMS = ("adaptive_batch_renorm", "layer")
OPTIMIZERS = ("stream_adamw", "adam", "adamw")
RATES, DEFAULT = (0.0005, 0.001, 0.002), ("stream_adamw", 0.001)
SEEDS = (1, 2, 3)


def run_all(path: Path) -> None:
    results = Results(path, Run, Row)
    for seed, optimizer, norm, data in itertools.product(SEEDS, OPTIMIZERS, NORMS, STREAMS):
        for rate in RATES:
            key = Run(
                data=data, order="iid", cut=CUT, norm=norm, optimizer=optimizer, rate=rate, seed=seed, records=RECORDS
            )
            results.once(key, measure)


def table(path: Path) -> str:
    rows = list(Results(path, Run, Row))
    lines = [
        "# What stream_adamw costs where nothing changes",
        "",
        f"From `{path.name}` ({len(rows)} runs; {platform.machine()}, one thread, torch {torch.__version__}): "
        f"prequential accuracy in % over {RECORDS:,} shuffled records in batches of {CUT}. What is measured, and how: "
        "`bench_stationary.py`. Means over the seeds named; in brackets the rate. Ours - best: paired by seed, in "
        "points, with its standard error.",
        "",
        "| stream | norm | seeds | stream_adamw | at its best rate | adam, best rate | adamw, best rate "
        "| default - best of them | tuned - best of them |",
        "|---" * 9 + "|",
    ]
    for data, norm in itertools.product(STREAMS, NORMS):
        by_seed = {
            (optimizer, rate): {
                row.seed: 100 * row.prequential
                for row in rows
                if (row.data, row.norm, row.optimizer, row.rate) == (data, norm, optimizer, rate)
            }
            for optimizer, rate in itertools.product(OPTIMIZERS, RATES)
        }
        seeds = sorted(set.intersection(*(set(found) for found in by_seed.values())))
        if not seeds:
            continue
        scores = {key: np.array([found[seed] for seed in seeds]) for key, found in by_seed.items()}
        best = {
            optimizer: max((key for key in scores if key[0] == optimizer), key=lambda key: scores[key].mean())
            for optimizer in OPTIMIZERS
        }
        rival = max((best["adam"], best["adamw"]), key=lambda key: scores[key].mean())
        cells = " | ".join(f"{scores[key].mean():.2f} ({key[1]:g})" for key in (DEFAULT, *best.values()))
        gains = " | ".join(_gain(scores[key] - scores[rival]) for key in (DEFAULT, best["stream_adamw"]))
        lines.append(f"| {data} | {norm} | {', '.join(map(str, seeds))} | {cells} | {gains} |")
    return "\n".join(lines) + "\n"


def _gain(gained: np.ndarray) -> str:
    error = f" ± {gained.std(ddof=1) / len(gained) ** 0.5:.2f}" if len(gained) > 1 else ""
    return f"{gained.mean():+.2f}{error}"


def main() -> None:
    run_or_table(__doc__, lambda chosen: run_all(chosen.out), table)


if __name__ == "__main__":
    main()
