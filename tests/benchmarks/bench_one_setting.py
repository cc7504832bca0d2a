"""Does one setting serve every batch size? Norm and optimizer together, one learning rate for all cuts and streams.

For each pair of norm and optimizer one rate is chosen, on a seed of its own: the best in the mean over shuffled and
drifting images and the cuts that are cheap. "adamw:32" learns a batch in steps of at most 32 records, as the product
does by default, "adamw" in one. The tables are made of fresh seeds; the other streams were never tuned on.
Runs are kept in a CSV like that of `bench_norm_grid.py`, so it may be stopped and go on, and grow pair by pair.

    python tests/benchmarks/bench_one_setting.py run --out one_setting_DATE.csv [--pairs layer+adamw --streams tables]
    python tests/benchmarks/bench_one_setting.py table tests/benchmarks/one_setting_DATE.csv
"""

import itertools
import platform
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from bench_norm_grid import Row, Run, measure
from resumable import Results, run_or_table

RECORDS, RECORDS_PERMUTED = 4_000, 48_000  # of a stream; twelve times 4,000
CUTS = ("1", "4", "16", "64", "variable", "bursty")
STEADY = ("1", "4", "16", "64", "variable")
JUDGED = (("digits", "iid"), ("digits", "drift"), ("fashion", "iid"), ("fashion", "drift"))
TABLES = (("elec2", "own"), ("noaa", "own"), ("covtype", "own"))
STREAMS = {
    "judged": JUDGED,
    "blocked": (("digits", "block"), ("fashion", "block")),
    "tables": TABLES,
    "permuted": (("fashion", "permuted"),),
}
NORMS = ("adaptive_batch_renorm", "batch_renorm", "layer", "batch", "none")
RATES = {
    "stream_adamw": (0.0005, 0.001, 0.0015, 0.002, 0.004),
    "stream_adamw_no_mean": (0.0005, 0.001, 0.002, 0.004),  # beta1: 0
    "adamw": (0.0005, 0.001, 0.002, 0.004),
    "adam": (0.0005, 0.001, 0.002, 0.004),
    "sgd": (0.03, 0.1, 0.3),
}
TUNING_SEEDS = (0,)
TUNING_CUTS = ("16", "64", "variable", "bursty")  # single records cost as much as all of these together
SEEDS = (1, 2, 3)


STEPS = ("", ":32")  # a batch is one step, or several of at most 32 records, as the product does by default
PAIRS = tuple(f"{norm}+{optimizer}{steps}" for optimizer in RATES for norm in NORMS for steps in STEPS)


def run_all(path: Path, pairs: Iterable[str], streams: tuple[tuple[str, str], ...], seeds: Iterable[int]) -> None:
    results = Results(path, Run, Row)
    named = [tuple(pair.split("+")) for pair in pairs]
    for norm, optimizer in named:
        for rate, seed in itertools.product(RATES[optimizer.partition(":")[0]], TUNING_SEEDS):
            for run in _cells(norm, optimizer, rate, seed, JUDGED, TUNING_CUTS):
                results.once(run, measure)
    for seed, (norm, optimizer) in itertools.product(seeds, named):  # stopped early it has compared all pairs, on fewer
        for run in _cells(norm, optimizer, best_rate(results, norm, optimizer), seed, streams, CUTS):
            results.once(run, measure)


def _cells(
    norm: str, optimizer: str, rate: float, seed: int, streams: Iterable[tuple[str, str]], cuts: Iterable[str]
) -> Iterator[Run]:
    for (data, order), cut in itertools.product(streams, cuts):
        if (norm, cut) != ("batch", "1"):  # it cannot learn from batches of one
            records = RECORDS_PERMUTED if order == "permuted" else RECORDS
            place = {"data": data, "order": order, "cut": cut, "records": records}
            yield Run(**place, norm=norm, optimizer=optimizer, rate=rate, seed=seed)  # type: ignore[arg-type]


def best_rate(rows: Iterable[Row], norm: str, optimizer: str) -> float:
    """The one rate of this pair: best in the mean over the cells it was tuned on."""
    scores = defaultdict(list)
    for row in rows:
        tuned = row.seed in TUNING_SEEDS and (row.data, row.order) in JUDGED and row.cut in TUNING_CUTS
        if tuned and (row.norm, row.optimizer) == (norm, optimizer):
            scores[row.rate].append(row.prequential)
    return max(scores, key=lambda rate: np.mean(scores[rate]))


# ---------------------------------------------------------------- the table


def table(path: Path) -> str:
    every = list(Results(path, Run, Row))
    best = {pair: best_rate(every, *pair) for pair in {(row.norm, row.optimizer) for row in every}}
    rows = [row for row in every if row.seed in SEEDS and row.rate == best[row.norm, row.optimizer]]
    lines = [
        "# One setting, any cut",
        "",
        f"From `{path.name}` ({platform.machine()}, one thread, torch {torch.__version__}; "
        f"{sum(row.cpu_s for row in every) / 3600:.2f} CPU hours). Prequential accuracy in %, streams of {RECORDS:,} "
        f"records where nothing else is said. One rate a pair, chosen among {RATES['adamw']} ({RATES['sgd']} for sgd; "
        f"stream_adamw also has its default, 0.0015) on seed {TUNING_SEEDS[0]}, the first table's streams and the cuts "
        f"{', '.join(TUNING_CUTS)}. "
        "Means are over the fresh seeds named. "
        "Spread: widest minus narrowest over the cuts, in points. BatchNorm cannot learn from batches of one; its "
        "first column is empty and its spread is over the others.",
        "",
    ]
    for title, streams in (
        ("Shuffled and drifting images (digits, fashion)", JUDGED),
        ("Class-blocked images", STREAMS["blocked"]),
        (f"Permuted images (fashion, {RECORDS_PERMUTED:,} records)", STREAMS["permuted"]),
        *((f"{data}, in its own order", ((data, order),)) for data, order in TABLES),
    ):
        found = [line for _, line in sorted(_lines(rows, streams), reverse=True)]
        if not found:
            continue
        lines += [
            f"## {title}",
            "",
            "| norm | optimizer | rate | seeds | " + " | ".join(CUTS) + " | mean | spread | without bursty |",
        ]
        lines.append("|---" * (len(CUTS) + 7) + "|")
        lines += [*found, ""]
    return "\n".join([*lines, *_finals(rows)])


def _finals(rows: list[Row]) -> list[str]:
    """Does the cut matter in the end? Each stream by itself."""
    places = (*JUDGED, *TABLES)
    lines = ["## Records held out, after the last batch: mean over the cuts (widest minus narrowest)", ""]
    lines += ["| norm | optimizer | rate | " + " | ".join(", ".join(place) for place in places) + " |"]
    lines.append("|---" * (len(places) + 3) + "|")
    for pair in sorted({(row.norm, row.optimizer, row.rate) for row in rows}):
        found: dict[tuple[str, str], dict[str, list[float]]] = {place: defaultdict(list) for place in places}
        for row in rows:
            if (row.norm, row.optimizer, row.rate) == pair and (row.data, row.order) in found:
                found[row.data, row.order][row.cut].append(100 * row.held_out)
        if not all(found.values()):
            continue
        cells = []
        for of_cut in found.values():
            means = [np.mean(values) for values in of_cut.values()]
            cells.append(f"{np.mean(means):.1f} ({max(means) - min(means):.1f})")
        norm, optimizer, rate = pair
        lines.append(f"| {norm} | {optimizer} | {rate:g} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _lines(rows: list[Row], streams: tuple[tuple[str, str], ...]) -> Iterator[tuple[float, str]]:
    pairs = sorted({(row.norm, row.optimizer, row.rate) for row in rows})
    for norm, optimizer, rate in pairs:
        of_pair = [
            row
            for row in rows
            if (row.norm, row.optimizer, row.rate) == (norm, optimizer, rate) and (row.data, row.order) in streams
        ]
        cells_of = {
            seed: {(row.data, row.order, row.cut) for row in of_pair if row.seed == seed}
            for seed in {row.seed for row in of_pair}
        }
        whole = (len(CUTS) - (norm == "batch")) * len(streams)
        done = sorted(seed for seed, found in cells_of.items() if len(found) == whole)
        chosen = [row for row in of_pair if row.seed in done]
        seeds = ", ".join(map(str, done))
        means = {
            cut: 100 * float(np.mean([row.prequential for row in chosen if row.cut == cut]))
            for cut in CUTS
            if any(row.cut == cut for row in chosen)
        }
        if not done:
            continue
        mean = float(np.mean(list(means.values())))
        steady = [means[cut] for cut in STEADY if cut in means]
        cells = " | ".join(f"{means[cut]:.1f}" if cut in means else "" for cut in CUTS)
        spreads = [max(values) - min(values) for values in (means.values(), steady)]
        numbers = " | ".join(f"{number:.1f}" for number in (mean, *spreads))
        yield mean, f"| {norm} | {optimizer} | {rate:g} | {seeds} | {cells} | {numbers} |"


def main() -> None:
    def run(chosen: Namespace) -> None:
        run_all(chosen.out, chosen.pairs, sum((STREAMS[name] for name in chosen.streams), ()), chosen.seeds)

    run_or_table(
        __doc__,
        run,
        table,
        pairs={"nargs": "+", "default": PAIRS, "choices": PAIRS},
        streams={"nargs": "+", "default": list(STREAMS), "choices": list(STREAMS)},
        seeds={"type": int, "nargs": "+", "default": SEEDS, "choices": SEEDS},
    )


if __name__ == "__main__":
    main()
