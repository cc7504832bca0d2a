"""What a norm layer costs: forward + backward, as a ratio to torch's BatchNorm in the same process.

Run: OMP_NUM_THREADS=1 python tests/benchmarks/bench_norm_speed.py [name ...]
All layers take turns within each round, so that a busy neighbour slows them alike; a number is the median over rounds.
A batch of one has no BatchNorm to compare with (it refuses): there the ratio is to BatchNorm at n = 2.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from stream_trainer.norms import NORMS, build_norm

SHAPES = [(1, 256), (4, 256), (16, 256), (64, 256), (256, 256), (1024, 256), (32, 64, 16, 16)]
ROUNDS, SECONDS_PER_TURN = 41, 0.004


def pass_of(layer: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    dy = torch.randn(shape, generator=generator)

    def run() -> None:
        x.grad = None
        layer(x).backward(dy)
        layer.zero_grad()

    return run


def candidates(shape: tuple[int, ...], names: list[str]) -> dict[str, Callable[[], None]]:
    dims, at_least_two = max(1, len(shape) - 2), (max(2, shape[0]), *shape[1:])
    baseline = (nn.BatchNorm1d, nn.BatchNorm2d)[dims - 1](shape[1])
    passes = {"torch BatchNorm": pass_of(baseline, at_least_two)}
    for name in names:
        run = pass_of(build_norm(name, shape[1], dims=dims), shape)
        try:
            run()
        except ValueError:  # refused for this shape, with a ShapeError
            continue
        passes[name] = run
    return passes


def microseconds(passes: dict[str, Callable[[], None]]) -> dict[str, float]:
    repeats = {}
    for name, run in passes.items():
        run()
        start = time.perf_counter()
        for _ in range(3):
            run()
        repeats[name] = max(1, int(SECONDS_PER_TURN / ((time.perf_counter() - start) / 3)))
    rounds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(ROUNDS):
        for name, run in passes.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            rounds[name].append((time.perf_counter() - start) / repeats[name] * 1e6)
    return {name: statistics.median(times) for name, times in rounds.items()}


def main() -> None:
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(NORMS)
    print("| shape | BatchNorm µs |", " | ".join(names), "|")
    print("|---" * (len(names) + 2) + "|")
    for shape in SHAPES:
        times = microseconds(candidates(shape, names))
        base = times["torch BatchNorm"]
        cells = [f"{times[name] / base:.2f}" if name in times else "–" for name in names]
        print(f"| {'×'.join(map(str, shape))} | {base:.0f} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
