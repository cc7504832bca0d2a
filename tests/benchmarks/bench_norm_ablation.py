"""What is each part of `adaptive_batch_renorm` worth? The layer without it, on the streams and cuts of the norm grid.

A part that costs nothing when it goes has no place in the layer. One rate per optimizer; points of prequential accuracy
against the layer as it is, paired by stream, cut and seed. In torch's operations: the compiled kernel has the formulas
inside, so a change of them in Python would change nothing.

    python tests/benchmarks/bench_norm_ablation.py --out tests/benchmarks/norm_ablation_DATE.md
"""

import argparse
import itertools
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from bench_norm_grid import OURS, network_of, stepper_of
from online_run import learn_online
from online_streams import batches, stream

from stream_trainer.norms import adaptive_batch_renorm as layer
from stream_trainer.norms.kernel import use_kernel

RECORDS = 4_000
CUTS = ("4", "16", "variable")
SEEDS = (11,)
RATES = {"sgd": 0.1, "stream_adamw": 0.0015}
STREAMS = (
    *itertools.product(("digits", "fashion", "elec2", "covtype"), ("iid", "drift", "block")),
    *itertools.product(("elec2", "covtype"), ("own",)),
)


def _trust(effective: Callable[[int, float], float], power: float = 1.0) -> Callable[..., float]:
    """The trust in a batch's moments if its records counted for so many."""
    return lambda self, n, positions, rho: max(
        1e-9, 1 - layer.SHRINKAGE ** ((effective(n, min(1.0, max(0.0, rho))) * positions) ** power)
    )


def _kish(n: float, rho: float) -> float:
    return n / (1 + (n - 1) * rho)


def _patched(name: str, value: Any, *, of: Any = layer) -> Callable[[], Any]:
    return lambda: mock.patch.object(of, name, value)


ADAPTIVE = layer.AdaptiveBatchRenorm
VARIANTS: dict[str, tuple[dict[str, Any], list[Callable[[], Any]]]] = {
    "as it is": ({}, []),
    "no LayerNorm before": ({"per_record": "none"}, []),
    "no learned floor": ({"learn_floor": 0.0}, []),
    "floor in steps of .1": ({"learn_floor": 0.1}, []),
    "slow moments only": ({"learn_floor": 0.0}, [_patched("DRIFT_RATIO", 1e9)]),
    "no projection": ({}, [_patched("SHRINKAGE", 1 - 1e-6)]),
    "whole projection, as in Batch Renorm": ({}, [_patched("SHRINKAGE", 1e-6)]),
    "records taken as independent": ({}, [_patched("trust", _trust(lambda n, rho: n), of=ADAPTIVE)]),
    "a third of the correlation": (
        {},
        [_patched("trust", _trust(lambda n, rho: _kish(n, rho / 3)), of=ADAPTIVE)],
    ),
    "trust by the square of the values": ({}, [_patched("trust", _trust(_kish, power=2.0), of=ADAPTIVE)]),
    "trust by their power 1.5": ({}, [_patched("trust", _trust(_kish, power=1.5), of=ADAPTIVE)]),
    "damping the other way": ({"damping": "other"}, []),
}


@contextmanager
def variant(name: str, optimizer: str) -> Iterator[dict[str, Any]]:
    """The layer's options, while the module is what the variant makes of it."""
    options, patches = VARIANTS[name]
    usual = "none" if optimizer == "stream_adamw" else "batch"
    if options.get("damping") == "other":
        options = {"damping": "batch" if usual == "none" else "none"}
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch())
        yield {"damping": usual, **options}


def accuracy(name: str, optimizer: str, data: str, order: str, cut: str, seed: int) -> float:
    """Prequential accuracy in %."""
    records = stream(data, order, RECORDS, seed)
    torch.manual_seed(seed)
    with variant(name, optimizer) as options:
        net = network_of(records, OURS, options)
        step = stepper_of(net, optimizer, RATES[optimizer])
        return 100 * learn_online(net, step, records, batches(cut, RECORDS, seed)).prequential


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    use_kernel("off")
    lines = [
        f"# What each part of adaptive_batch_renorm is worth, {date.today()}",
        "",
        f"Prequential accuracy in %, mean over cuts {CUTS} and seeds {SEEDS}; {RECORDS} records a stream; "
        f"rates {RATES}. First line: the layer; below: points lost (-) or gained (+) by the change. "
        f"{platform.machine()}, one thread, torch {torch.__version__}.",
    ]
    for optimizer in RATES:
        lines += ["", f"## {optimizer}", "", "| variant | " + " | ".join(f"{d} {o}" for d, o in STREAMS) + " | mean |"]
        lines.append("|---" * (len(STREAMS) + 2) + "|")
        found: dict[str, list[float]] = defaultdict(list)
        for name in VARIANTS:
            for data, order in STREAMS:
                cells = itertools.product(CUTS, SEEDS)
                found[name].append(np.mean([accuracy(name, optimizer, data, order, cut, seed) for cut, seed in cells]))
            base = np.zeros(len(STREAMS)) if name == "as it is" else np.array(found["as it is"])
            points = [*(found[name] - base), np.mean(found[name] - base)]
            lines.append(
                f"| {name} | " + " | ".join(f"{p:{'.1f' if name == 'as it is' else '+.1f'}}" for p in points) + " |"
            )
            print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
