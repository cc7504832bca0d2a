"""How long should the slow memory of `adaptive_batch_renorm` be? Its time constant, from 1,024 to 30,720 records.

First the real streams of `bench_streams.py` through the service, with every default but this one: log-loss of the whole
stream. Then the streams of the ablation and longer ones, one rate per optimizer, steps of at most 32 records: points of
prequential accuracy against 1,024, paired by cut and seed.

    python tests/benchmarks/bench_norm_memory.py > tests/benchmarks/norm_memory_DATE.md
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from bench_norm_ablation import RATES
from bench_norm_ablation import STREAMS as SHORT
from bench_norm_grid import OURS, network_of, norm_options, stepper_of
from bench_streams import ROOT, run, streams
from online_run import learn_online
from online_streams import batches, stream
from resumable import describe_machine

from stream_trainer.norms.decay import half_life_of

MEMORIES = (1_024, 3_072, 10_240, 30_720)  # records
BATCHES, CUTS = (16, 64, 256), ("4", "16", "64", "variable")
SHORT_RECORDS, LONG_RECORDS, PERMUTED_RECORDS = 4_000, 20_000, 48_000
LONG = (("fashion", "iid"), ("fashion", "drift"), ("covtype", "iid"), ("covtype", "own"), ("elec2", "own"))
SEEDS_REAL, SEEDS_SHORT, SEEDS_LONG = (0, 1, 2), (11, 12), (11, 12, 13)


def slow(memory: int) -> dict[str, float]:
    return {"half_life_records_slow": half_life_of(time_constant_records=memory)}


def real_rows(data: Path) -> Iterable[str]:
    """Log-loss of each memory, and of LayerNorm beside them, in the mean over seeds."""
    network = {"net": "mlp", "hidden": [64, 32]}
    with tempfile.TemporaryDirectory() as scratch:
        for (name, (schema, path)), batch in itertools.product(streams(data, Path(scratch)).items(), BATCHES):
            losses = []
            for seed in SEEDS_REAL:
                models = {
                    **{
                        f"m{m}": {"torch": {**network, "norm": OURS, "norm_options": slow(m), "seed": seed}}
                        for m in MEMORIES
                    },
                    "layer": {"torch": {**network, "norm": "layer", "seed": seed}},
                }
                scores = run(schema, path, batch, models)
                losses.append([scores[model]["log_loss"] for model in models])
            yield f"| {name} | {batch} | " + " | ".join(f"{loss:.4f}" for loss in np.mean(losses, axis=0)) + " |"


def accuracy(optimizer: str, data: str, order: str, records: int, cut: str, seed: int, memory: int) -> float:
    """Prequential accuracy in %."""
    learned = stream(data, order, records, seed)
    torch.manual_seed(seed)
    net = network_of(learned, OURS, {**norm_options(OURS, optimizer), **slow(memory)})
    step = stepper_of(net, optimizer, RATES[optimizer])
    return 100 * learn_online(net, step, learned, batches(cut, records, seed), step_records_max=32).prequential


def cell(optimizer: str, place: tuple[str, str], records: int, cuts: Iterable[str], seeds: Iterable[int]) -> str:
    found = np.array(
        [
            [accuracy(optimizer, *place, records, cut, seed, memory) for memory in MEMORIES]
            for cut, seed in itertools.product(cuts, seeds)
        ]
    )
    gains = found[:, 1:] - found[:, :1]
    errors = gains.std(axis=0, ddof=1) / len(gains) ** 0.5
    shown = " | ".join(f"{gain:+.2f} ± {error:.2f}" for gain, error in zip(gains.mean(axis=0), errors))
    return f"| {optimizer} | {', '.join(place)} | {records:,} | {found[:, 0].mean():.2f} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"# How long the slow memory of adaptive_batch_renorm should be, {date.today()}\n")
    print(f"{__doc__.split('    python')[0].strip()}\n\n`bench_norm_memory.py`; {describe_machine()}; rates {RATES}.\n")
    memories = " | ".join(f"{memory:,}" for memory in MEMORIES)
    print(f"Log-loss, mean over network seeds {SEEDS_REAL}:\n\n| stream | batch | {memories} | layer |")
    print("|---" * (len(MEMORIES) + 3) + "|")
    for row in real_rows(options.data):
        print(row, flush=True)
    print(f"\nPoints of accuracy, cuts {CUTS}, seeds {SEEDS_SHORT}, of the longer streams cut 16 and {SEEDS_LONG}:\n")
    print(f"| optimizer | stream | records | {memories} |")
    print("|---" * (len(MEMORIES) + 3) + "|")
    for optimizer, place in itertools.product(RATES, SHORT):
        print(cell(optimizer, place, SHORT_RECORDS, CUTS, SEEDS_SHORT), flush=True)
    for place in LONG:
        print(cell("stream_adamw", place, LONG_RECORDS, ("16",), SEEDS_LONG), flush=True)
    print(cell("stream_adamw", ("fashion", "permuted"), PERMUTED_RECORDS, ("16",), SEEDS_LONG), flush=True)


if __name__ == "__main__":
    main()
