"""How does the error depend on the size of the batch, for each norm layer? The figure of the README.

One pass over Fashion-MNIST images (14 x 14, from ../shared/data or --data), each predicted before it is learned, by an
MLP 196-128-128-10 under plain SGD; for each layer and batch size the best rate of one grid. BatchNorm refuses batches
of one. Prints a Markdown table and, with matplotlib, writes the figure.

    python tests/benchmarks/bench_batch_size.py --seeds 3 --out tests/benchmarks/batch_size_2cores_DATE
"""

import argparse
import gzip
import itertools
import platform
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stream_trainer.norms import build_norm

NORMS = ("batch", "batch_renorm", "none", "group", "layer", "adaptive_batch_renorm")
SIZES = (1, 2, 4, 8, 16, 32, 64)
RATES = (0.02, 0.06, 0.2)
HIDDEN = 128


def images(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(60000, 196) standardised by the published mean and deviation, and labels."""
    with gzip.open(folder / "fashion-train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 14, 2, 14, 2)
    with gzip.open(folder / "fashion-train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    x = (pixels.mean(axis=(2, 4)) / 255 - 0.2860) / 0.3530
    return torch.tensor(x.reshape(len(x), -1), dtype=torch.float32), torch.tensor(labels.astype(np.int64))


def network(norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (196, HIDDEN):
        layers += [nn.Linear(width, HIDDEN), build_norm(norm, HIDDEN, dims=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, 10))


def error(x: torch.Tensor, y: torch.Tensor, norm: str, size: int, rate: float, seed: int) -> float:
    """Share of wrong predictions, each made in eval mode before the record was learned."""
    torch.manual_seed(seed)
    net = network(norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    wrong = 0
    for start in range(0, len(x), size):
        xs, ys = x[start : start + size], y[start : start + size]
        net.eval()
        with torch.inference_mode():
            wrong += int((net(xs).argmax(1) != ys).sum())
        if norm == "batch" and len(xs) < 2:
            continue
        net.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(xs), ys).backward()
        optimizer.step()
    return wrong / len(x)


def measure(folder: Path, records: int, seeds: int) -> dict[tuple[str, int], list[float]]:
    """(norm, size) -> error of each seed at the rate that is best in the mean."""
    x, y = images(folder)
    found: dict[tuple[str, int], list[float]] = {}
    for norm, size in itertools.product(NORMS, SIZES):
        if (norm, size) == ("batch", 1):
            continue
        by_rate: dict[float, list[float]] = defaultdict(list)
        for rate, seed in itertools.product(RATES, range(seeds)):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:records]
            by_rate[rate].append(error(x[order], y[order], norm, size, rate, seed))
        found[norm, size] = min(by_rate.values(), key=np.mean)
        print(f"{norm:>22} n={size:<3} {100 * np.mean(found[norm, size]):.1f}", flush=True)
    return found


def table(found: dict[tuple[str, int], list[float]], records: int, seeds: int) -> str:
    lines = [
        f"# Error against batch size, {date.today()}",
        "",
        f"Prequential error in %, mean (sd) over {seeds} seeds; Fashion-MNIST 14x14, the first {records} records of a "
        f"shuffle, MLP 196-{HIDDEN}-{HIDDEN}-10, SGD, best of the rates {RATES} per cell. "
        f"{platform.machine()}, 2 shared cores, one thread, torch {torch.__version__}.",
        "",
        "| norm | " + " | ".join(f"n = {size}" for size in SIZES) + " |",
        "|---" * (len(SIZES) + 1) + "|",
    ]
    for norm in NORMS:
        cells = []
        for size in SIZES:
            errors = found.get((norm, size))
            cells.append(f"{100 * np.mean(errors):.1f} ({100 * np.std(errors):.1f})" if errors else "refused")
        lines.append(f"| {norm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(found: dict[tuple[str, int], list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "stream_trainer"
    from matplotlib import pyplot as plt

    plot, axes = plt.subplots(figsize=(7, 4))
    for norm in NORMS:
        points = [(size, 100 * float(np.mean(found[norm, size]))) for size in SIZES if (norm, size) in found]
        ours = norm == "adaptive_batch_renorm"
        axes.plot(*zip(*points, strict=True), marker="o", label=norm, linewidth=2.5 if ours else 1.2)
    axes.set(xscale="log", xticks=SIZES, xticklabels=SIZES, xlabel="records in a batch", ylabel="prequential error, %")
    axes.set_title("Same stream, same network, other batch size (Fashion-MNIST, one pass)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    plot.tight_layout()
    plot.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="path without suffix: .md and .svg are written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.data, options.records, options.seeds)
    options.out.with_suffix(".md").write_text(table(found, options.records, options.seeds))
    figure(found, options.out.with_suffix(".svg"))
    print(options.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
