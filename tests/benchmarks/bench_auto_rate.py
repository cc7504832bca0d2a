"""Does any method that finds the learning rate by itself hold on every stream? Against the constant default.

Shuffled and drifting Fashion-MNIST, shuffled covtype, elec2 and the NOAA weather in their own order; batches of 16,
the network of bench_norm_grid.py. The methods are in auto_rates.py, each with its published defaults; `stream_adamw`
runs at its default, 1.5e-3, at half and at twice it. Prequential accuracy; a method proves itself if it is nowhere more
than .3 points under the default.

    python tests/benchmarks/bench_auto_rate.py run --out tests/benchmarks/auto_rate_DATE.csv
    python tests/benchmarks/bench_auto_rate.py table tests/benchmarks/auto_rate_DATE.csv
"""

import itertools
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from auto_rates import AUTO_RATES
from bench_norm_grid import network_of, norm_options
from online_run import Step, learn_online
from online_streams import batches, stream
from resumable import Results, describe_machine, run_or_table
from torch import nn

from stream_trainer.optimizers import StreamAdamW

RECORDS, CUT, SEEDS = 16_000, "16", (1, 2, 3)
STREAMS = (("fashion", "iid"), ("fashion", "drift"), ("covtype", "iid"), ("elec2", "own"), ("noaa", "own"))
NORMS = ("adaptive_batch_renorm", "layer")
DEFAULT = "stream_adamw 0.0015"
METHODS = (DEFAULT, "stream_adamw 0.00075", "stream_adamw 0.003", *AUTO_RATES)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was run: one row's key."""

    data: str
    order: str
    norm: str
    method: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    """What came out: prequential accuracy as a share; 0 from where a network went to NaN."""

    prequential: float
    cpu_s: float


def stepper_of(net: nn.Module, method: str) -> Step:
    name, _, rate = method.partition(" ")
    if not rate:
        return AUTO_RATES[name](net)
    ours = StreamAdamW(net.parameters(), lr=float(rate))
    return lambda n: ours.step(records=n)


def measure(run: Run) -> Row:
    data = stream(run.data, run.order, RECORDS, run.seed)
    torch.manual_seed(run.seed)
    net = network_of(data, run.norm, norm_options(run.norm, run.method.partition(" ")[0]))
    started = time.process_time()
    outcome = learn_online(net, stepper_of(net, run.method), data, batches(CUT, RECORDS, run.seed))
    return Row(**asdict(run), prequential=outcome.prequential, cpu_s=time.process_time() - started)


def table(path: Path) -> str:
    found: dict[tuple[str, str, str, str], dict[int, float]] = {}
    rows = list(Results(path, Run, Row))
    for row in rows:
        found.setdefault((row.data, row.order, row.norm, row.method), {})[row.seed] = 100 * row.prequential
    places = [(*place, norm) for place, norm in itertools.product(STREAMS, NORMS)]
    lines = [
        "# Learning rates that find themselves",
        "",
        f"From `{path.name}` ({len(rows)} runs, {describe_machine()}). What is measured, and how: "
        f"`bench_auto_rate.py`. Prequential accuracy in % over {RECORDS:,} records, mean over seeds {SEEDS}; worst: "
        f"points against {DEFAULT} where the method is furthest behind.",
        "",
        "| method | " + " | ".join(", ".join(place) for place in places) + " | mean | worst |",
        "|---" * (len(places) + 3) + "|",
    ]
    for method in METHODS:
        scores = [np.mean(list(found[*place, method].values())) for place in places]
        behind = [score - np.mean(list(found[*place, DEFAULT].values())) for place, score in zip(places, scores)]
        cells = " | ".join(f"{score:.1f}" for score in scores)
        lines.append(f"| {method} | {cells} | {np.mean(scores):.1f} | {min(behind):+.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    def run_all(path: Path) -> None:
        results = Results(path, Run, Row)
        for seed, (data, order), norm, method in itertools.product(SEEDS, STREAMS, NORMS, METHODS):
            results.once(Run(data=data, order=order, norm=norm, method=method, seed=seed), measure)

    run_or_table(__doc__, lambda chosen: run_all(chosen.out), table)


if __name__ == "__main__":
    main()
