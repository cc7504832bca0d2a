"""What a norm layer costs: forward + backward, as a ratio to torch's BatchNorm in the same process.

Run: OMP_NUM_THREADS=2 python tests/benchmarks/bench_norm_speed.py [--threads 2] [name ...]
All layers take turns within each round, so that a busy neighbour slows them alike. With one thread a number is CPU
time, the median over rounds; with more it is the time that passes, and of ten times as many rounds of single passes the
lower twentieth: on a busy machine only those had both cores. A batch of one has no BatchNorm to compare with (it
refuses): there the ratio is to BatchNorm at n = 2. `NAME (torch)`: the layer without its compiled kernel; `NAME
(formula)`: its formula in plain torch operations, differentiated by autograd. Beside each table: what is kept for
backward, in bytes over BatchNorm's; and at the end the share of the norms in a training step of a small ResNet.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_trainer.norms import NORMS, build_norm, convert_norms, kernel_in_use
from stream_trainer.norms.kernel import use_kernel

SHAPES = [(1, 256), (2, 256), (4, 256), (16, 256), (64, 256), (256, 256), (1024, 256), (32, 64, 16, 16)]
ROUNDS, SECONDS_PER_TURN = 41, 0.004
KERNEL = kernel_in_use()
FUSED = ("batch_renorm", "adaptive_batch_renorm")
WITH_FORMULA = (*FUSED, "sync", "online")


class Formula(nn.Module):
    """What one writes down first: statistics and moments in plain operations, the rest by autograd. No shaped backward,
    no control of the share, one memory per batch that is not exact under re-cutting: less work than the layers do."""

    def __init__(self, channels: int, horizons: int, per_record: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(horizons, channels))
        self.register_buffer("var", torch.ones(horizons, channels))
        self.per_record = per_record

    def forward(self, x: Tensor) -> Tensor:
        axes, view = (0, *range(2, x.dim())), (1, -1, *[1] * (x.dim() - 2))
        if self.per_record:
            all_axes = tuple(range(1, x.dim()))
            x = (x - x.mean(all_axes, keepdim=True)) / (x.var(all_axes, correction=0, keepdim=True) + 1e-5).sqrt()
        mean_B, std_B = x.mean(axes), (x.var(axes, correction=0) + 1e-5).sqrt()
        mean, std = self.mean.mean(0), (self.var.mean(0) + 1e-5).sqrt()
        r = (std_B / std).clamp(1 / 3, 3).detach()
        d = ((mean_B - mean) / std).clamp(-5, 5).detach()
        xhat = (x - mean_B.view(view)) / std_B.view(view) * r.view(view) + d.view(view)
        with torch.no_grad():
            for weight, running, new in ((0.05, self.mean, mean_B), (0.05, self.var, std_B.square())):
                for row in running:
                    row += weight * (new - row)
        return self.weight.view(view) * xhat + self.bias.view(view)


class OnlineFormula(nn.Module):
    """One record after another, forward; autograd sees through all of it, and there is no control of the gradient."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        axes, view, ys = tuple(range(1, x.dim() - 1)), (-1, *[1] * (x.dim() - 2)), []
        for record in x:
            xhat = ((record - self.mean.view(view)) / (self.var + 1e-5).sqrt().view(view)).clamp(-5, 5)
            ys.append(self.weight.view(view) * xhat + self.bias.view(view))
            with torch.no_grad():
                mean = record.mean(axes) if axes else record
                within = record.var(axes, correction=0) if axes else 0.0
                self.var += 0.001 * (within + 0.999 * (mean - self.mean).square() - self.var)
                self.mean += 0.001 * (mean - self.mean)
        return torch.stack(ys)


def formula_of(name: str, channels: int) -> nn.Module:
    adaptive = name == "adaptive_batch_renorm"
    return OnlineFormula(channels) if name == "online" else Formula(channels, 1 + adaptive, adaptive)


def pass_of(layer: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    dy = torch.randn(shape, generator=generator)

    def run() -> None:
        x.grad = None
        layer(x).backward(dy)
        layer.zero_grad()

    return run


def on_path(path: str, run: Callable[[], None]) -> Callable[[], None]:
    def run_there() -> None:
        use_kernel(path)
        run()

    return run_there


def layers(shape: tuple[int, ...], names: list[str]) -> dict[str, tuple[str, nn.Module]]:
    """Name in the table -> kernel path and layer, those that refuse the shape left out."""
    dims, channels = max(1, len(shape) - 2), shape[1]
    found = {"torch BatchNorm": (KERNEL, (nn.BatchNorm1d, nn.BatchNorm2d)[dims - 1](channels))}
    for name in names:
        found[name] = (KERNEL, build_norm(name, channels, dims=dims))
        if name in WITH_FORMULA:
            if KERNEL != "off":
                found[f"{name} (torch)"] = ("off", build_norm(name, channels, dims=dims))
            found[f"{name} (formula)"] = (KERNEL, formula_of(name, channels))
    return found


def shape_for(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (max(2, shape[0]), *shape[1:]) if name == "torch BatchNorm" else shape


def candidates(shape: tuple[int, ...], names: list[str]) -> dict[str, Callable[[], None]]:
    passes = {}
    for name, (path, layer) in layers(shape, names).items():
        run = on_path(path, pass_of(layer, shape_for(name, shape)))
        try:
            run()
        except ValueError:  # refused for this shape, with a ShapeError
            continue
        passes[name] = run
    return passes


def kept_bytes(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """What one forward pass keeps for backward, each storage once."""
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        y = layer(torch.randn(shape, requires_grad=True))
    del y
    return sum(kept.values())


class Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm_first = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm_second = nn.BatchNorm2d(after)
        self.beside = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_second(self.second(F.relu(self.norm_first(self.first(x)))))
        return F.relu(y + self.beside(x))


def small_resnet() -> nn.Module:
    """Eight norms: a stem, three blocks of two and one before the head; images of 3 x 32 x 32."""
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Block(16, 16), Block(16, 32), Block(32, 64), nn.BatchNorm2d(64)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def step_of(network: nn.Module, records: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(3)
    x, labels = torch.randn(records, 3, 32, 32, generator=generator), torch.arange(records) % 10
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()

    return run


def resnet_steps(records: int) -> dict[str, Callable[[], None]]:
    torch.manual_seed(3)
    network = small_resnet()
    steps = {"no norms": step_of(convert_norms(copy.deepcopy(network), "none"), records)}
    steps["torch BatchNorm"] = step_of(copy.deepcopy(network), records)
    for name in FUSED:
        steps[name] = on_path(KERNEL, step_of(convert_norms(copy.deepcopy(network), name), records))
        if KERNEL != "off":
            steps[f"{name} (torch)"] = on_path("off", step_of(convert_norms(copy.deepcopy(network), name), records))
    return steps


def microseconds(passes: dict[str, Callable[[], None]], clock: Callable[[], float]) -> dict[str, float]:
    alone = clock is time.process_time
    repeats = {}
    for name, run in passes.items():
        run()
        start = clock()
        for _ in range(3):
            run()
        repeats[name] = max(1, int(SECONDS_PER_TURN / max(1e-6, (clock() - start) / 3))) if alone else 1
    rounds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(ROUNDS if alone else 10 * ROUNDS):
        for name, run in passes.items():
            run()  # its own data into the caches, its own path chosen
            start = clock()
            for _ in range(repeats[name]):
                run()
            rounds[name].append((clock() - start) / repeats[name] * 1e6)
    pick = statistics.median if alone else (lambda times: statistics.quantiles(times, n=20)[0])
    return {name: pick(times) for name, times in rounds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NORMS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print(f"kernel {KERNEL}, {options.threads} thread(s)")
    columns = [name for name in layers((4, 4), options.names) if name != "torch BatchNorm"]
    print("| shape | BatchNorm µs |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 2) + "|")
    for shape in SHAPES:
        times = microseconds(candidates(shape, options.names), clock)
        base = times["torch BatchNorm"]
        cells = [f"{times[name] / base:.2f}" if name in times else "–" for name in columns]
        print(f"| {'×'.join(map(str, shape))} | {base:.0f} |", " | ".join(cells), "|", flush=True)
    print("\nKept for backward, over BatchNorm's at the same n (n = 1: at 2)")
    for shape in SHAPES:
        found = {name: layer for name, (_, layer) in layers(shape, [n for n in options.names if n in FUSED]).items()}
        use_kernel(KERNEL)
        kept = {name: kept_bytes(found[name], shape_for(name, shape)) for name in found if "(torch)" not in name}
        base = kept.pop("torch BatchNorm")
        print(f"{'×'.join(map(str, shape))}:", ", ".join(f"{name} {size / base:.2f}" for name, size in kept.items()))
    for records in (8, 32) if options.threads == 1 else ():
        times = microseconds(resnet_steps(records), clock)
        bare = times["no norms"]
        shares = [f"{name} {1 - bare / time_us:.0%}" for name, time_us in times.items() if name != "no norms"]
        print(f"Norms in a step of the ResNet, {records} images ({bare / 1e3:.1f} ms without):", ", ".join(shares))


if __name__ == "__main__":
    main()
