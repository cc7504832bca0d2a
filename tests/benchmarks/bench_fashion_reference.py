"""Do our layers reach the published accuracies of a small dense network on Fashion-MNIST?

Published with Online Normalization (Chiley et al. 2019, arXiv:1905.05894, medians over many runs): batches of 32, rate
.04, 10 epochs: Online Norm 88.9, BatchNorm 88.8, LayerNorm 88.3, none 88.2, with a standard deviation of about .55.
The widths of their network are not in what we could read; ours is 784-128-10, one normalised hidden layer. It is no
stream: ten epochs, each in a new order, and the accuracy on the 10,000 test images by the formula of inference.

    python tests/benchmarks/bench_fashion_reference.py run --out tests/benchmarks/fashion_reference_DATE.csv
    python tests/benchmarks/bench_fashion_reference.py table tests/benchmarks/fashion_reference_DATE.csv
"""

import itertools
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from online_streams import fashion_images
from resumable import Results, describe_machine, run_or_table
from torch import Tensor, nn

from stream_trainer.models.networks import build_network
from stream_trainer.schema import InputWidths

PUBLISHED = {"none": 88.2, "layer": 88.3, "batch": 88.8, "online": 88.9}
PUBLISHED_SD = 0.55
LAYERS = ("none", "layer", "batch", "online", "batch_renorm", "adaptive_batch_renorm")
HIDDEN = (128,)
BATCH, RATE, EPOCHS = 32, 0.04, 10


@dataclass(frozen=True, kw_only=True)
class Run:
    norm: str
    seed: int
    epochs: int = EPOCHS


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    test: float  # share of right answers on the test images, after the last epoch
    train_loss: float  # mean over the last epoch, in nats
    cpu_s: float


def measure(run: Run) -> Row:
    images, labels, test_images, test_labels = _data()
    torch.manual_seed(run.seed)
    net = build_network("mlp", InputWidths(numbers=0, arrays=((28, 28),)), 10, hidden=HIDDEN, norm=run.norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    started = time.process_time()
    for _ in range(run.epochs):
        order = torch.randperm(len(labels)).split(BATCH)
        losses = [_step(net, optimizer, images[part], labels[part]) for part in order]
    net.eval()
    with torch.inference_mode():
        test = float((net(test_images).argmax(1) == test_labels).float().mean())
    return Row(**asdict(run), test=test, train_loss=float(np.mean(losses)), cpu_s=time.process_time() - started)


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    net.train()
    optimizer.zero_grad(set_to_none=True)
    loss = nn.functional.cross_entropy(net(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


_LOADED: list[Tensor] = []


def _data() -> list[Tensor]:
    """Images and labels, test images and labels; read once."""
    if not _LOADED:
        _LOADED.extend(torch.from_numpy(a) for part in ("train", "t10k") for a in fashion_images(part))
    return _LOADED


def run_all(path: Path, seeds: int) -> None:
    """Seeds outermost, so that a stopped grid compares equals."""
    results = Results(path, Run, Row)
    for seed, norm in itertools.product(range(seeds), LAYERS):
        row = results.once(Run(norm=norm, seed=seed), measure)
        print(f"seed {seed} {norm:>22} {100 * row.test:.2f}  {row.cpu_s:.0f} s", flush=True)


def table(path: Path) -> str:
    results = Results(path, Run, Row)
    by_norm: dict[str, list[Row]] = defaultdict(list)
    for row in results:
        by_norm[row.norm].append(row)
    lines = [
        "# Fashion-MNIST, a dense network, ten epochs",
        "",
        f"From `{path.name}` ({len(results)} runs, {sum(row.cpu_s for row in results) / 60:.0f} CPU minutes; "
        f"{describe_machine()}). MLP 784-{'-'.join(map(str, HIDDEN))}-10, ReLU, batches of {BATCH}, plain SGD with "
        f"rate {RATE}, {EPOCHS} epochs of 60,000 records in a new order each. Accuracy on the 10,000 test images in %. "
        f"Published: arXiv:1905.05894, its own network, sd about {PUBLISHED_SD}. The error is that of our mean.",
        "",
        "| layer | seeds | mean | sd | error | published | difference | training loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for norm in LAYERS:
        rows = by_norm[norm]
        if rows:
            lines.append(_line(norm, rows))
    return "\n".join(lines) + "\n"


def _line(norm: str, rows: list[Row]) -> str:
    tests = [100 * row.test for row in rows]
    mean, sd = float(np.mean(tests)), float(np.std(tests, ddof=1)) if len(tests) > 1 else math.nan
    published, difference = "", ""
    if norm in PUBLISHED:
        published, difference = f"{PUBLISHED[norm]:.1f}", f"{mean - PUBLISHED[norm]:+.2f}"
    error = sd / math.sqrt(len(tests))
    loss = np.mean([row.train_loss for row in rows])
    return f"| {norm} | {len(rows)} | {mean:.2f} | {sd:.2f} | {error:.2f} | {published} | {difference} | {loss:.3f} |"


def main() -> None:
    seeds = {"type": int, "default": 10}
    run_or_table(__doc__, lambda chosen: run_all(chosen.out, chosen.seeds), table, seeds=seeds)


if __name__ == "__main__":
    main()
