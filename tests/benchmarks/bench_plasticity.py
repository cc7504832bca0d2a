"""Who is still able to learn after many changes of the world? Optimizers against norms on permuted images.

Fashion-MNIST at 14 x 14; with each task the pixels change places, once and for all records of the task. Batches of 16,
test then train, three hidden layers of 100 ReLU. First tasks: the second to the one at a fifth of the run; last tasks:
the last fifth. A fresh network, same norm and optimizer, is trained on each of the last tasks alone: what a network
that forgot everything would have. To regain: records after a change until the accuracy, mean over the last tasks in
blocks of 250, reaches the mean accuracy of the fresh networks.
Rates and strengths are those of the papers or of our earlier tables, not tuned here. `shrink_and_perturb`,
`continual_backprop` and `upgd` are written from their formulas (plasticity_rivals.py), the first two on top of Adam.
One row of the CSV is one run; a run that is in the file is not repeated, so it may be stopped and go on, and grow.

    python tests/benchmarks/bench_plasticity.py run --out tests/benchmarks/plasticity_DATE.csv --tasks 25 --records 4000
    python tests/benchmarks/bench_plasticity.py table tests/benchmarks/plasticity_DATE.csv
"""

import itertools
import platform
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from online_streams import fashion
from plasticity_rivals import UPGD, ContinualBackprop, ShrinkAndPerturb
from resumable import Results, run_or_table
from torch import Tensor, nn

from stream_trainer.models.networks import build_network
from stream_trainer.optimizers import StreamAdamW
from stream_trainer.optimizers.plasticity_signals import dead_share, effective_rank
from stream_trainer.schema import InputWidths

BATCH, HIDDEN, CLASSES, PIXELS, BLOCK = 16, (100, 100, 100), 10, 196, 250
TOLD_RECORDS, TOLD_HORIZON_RECORDS = 500, 1_000  # the best of (500, 1,000), (2,000, 4,000), (4,000, 16,000)
PROBE = 1_000  # records of the last task that dead units and rank are measured on
NORMS = ("layer", "adaptive_batch_renorm", "none", "batch")

Step = Callable[[int], object]
Net = nn.Module


def ours(horizon: float | None) -> Callable[[Net], Step]:
    def build(net: Net) -> Step:
        optimizer = StreamAdamW(net.parameters(), pull_horizon_records=horizon)
        return lambda n: optimizer.step(records=n)

    return build


def told(net: Net, task_records: int) -> Step:
    """What a pull that follows the drift could do at best: told of each change, it takes the weights back at once."""
    optimizer, learned = StreamAdamW(net.parameters()), 0

    def step(n: int) -> None:
        nonlocal learned
        back = learned % task_records < TOLD_RECORDS
        for group in optimizer.param_groups:
            group["pull_horizon_records"] = TOLD_HORIZON_RECORDS if back else 1.6e6
        optimizer.step(records=n)
        learned += n

    return step


def torchs(kind: type[torch.optim.Optimizer], **settings: float) -> Callable[[Net], Step]:
    def build(net: Net) -> Step:
        optimizer = kind(net.parameters(), **settings)
        return lambda n: optimizer.step()

    return build


OPTIMIZERS: dict[str, Callable[[Net], Step]] = {
    "stream_adamw": ours(1.6e6),
    "adam": torchs(torch.optim.Adam, lr=1e-3),
    "stream_adamw, no pull": ours(None),
    "adamw": torchs(torch.optim.AdamW, lr=1e-3, weight_decay=0.01),
    "stream_adamw, pull 160k": ours(1.6e5),
    "shrink_and_perturb": lambda net: ShrinkAndPerturb(net, lr=1e-3, decay=0.1).step,
    "continual_backprop": lambda net: ContinualBackprop(net, lr=1e-3, replaced=1e-4, mature_steps=100).step,
    "upgd": lambda net: UPGD(net, lr=0.03, decay=1e-3, memory=0.999, noise=1e-3).step,
    "sgd": torchs(torch.optim.SGD, lr=0.03),
}

TOLD = "stream_adamw, told of changes"
HOW_MUCH: dict[str, dict[str, Any]] = {  # command line: of bench_plasticity_race.py too
    "tasks": {"type": int, "default": 100},
    "records": {"type": int, "default": 8_000},
    "seeds": {"type": int, "nargs": "+", "default": [0, 1, 2]},
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was run: one row's key."""

    norm: str
    optimizer: str
    tasks: int
    task_records: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    """What came out. Accuracies, dead units: shares; rank: of the last hidden layer, at most 100."""

    first: float
    last: float
    fresh: float
    dead: float
    rank: float
    regain: float  # records; infinite: not within a task
    regain_fresh: float  # the same of the fresh networks: how long they take to reach their own mean
    cpu_s: float


class Images:
    """The tasks of one seed: the same for every norm and optimizer."""

    _loaded: tuple[Tensor, Tensor] | None = None

    def __init__(self, records: int, seed: int) -> None:
        if Images._loaded is None:
            x, y = fashion()
            Images._loaded = torch.from_numpy(x.reshape(-1, PIXELS).astype(np.float32)), torch.from_numpy(y)
        self._x, self._y = Images._loaded
        self._records, self._seed = records, seed

    def task(self, number: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([self._seed, number])
        chosen = torch.from_numpy(random.choice(len(self._x), self._records, replace=False))
        order = torch.from_numpy(random.permutation(PIXELS))
        return self._x[chosen][:, order], self._y[chosen]


def build(run: Run, seed: int) -> tuple[Net, Step]:
    torch.manual_seed(seed)
    counted = run.optimizer.startswith("stream_adamw") and run.norm == "adaptive_batch_renorm"
    options = {"damping": "none"} if counted else {}  # as the configuration wires it
    net = build_network("mlp", InputWidths(numbers=PIXELS), CLASSES, norm=run.norm, norm_options=options, hidden=HIDDEN)
    return net, told(net, run.task_records) if run.optimizer == TOLD else OPTIMIZERS[run.optimizer](net)


def learn(net: Net, step: Step, x: Tensor, y: Tensor) -> Tensor:
    """Test, then train, one task; returns which records were right, (N,) bool."""
    remembers = any(True for _ in net.buffers())  # then it predicts by another formula than it trains by
    right = []
    for start in range(0, len(y), BATCH):
        x_NF, y_N = x[start : start + BATCH], y[start : start + BATCH]
        if remembers:
            net.eval()
            with torch.inference_mode():
                right.append(net(x_NF).argmax(1) == y_N)
            net.train()
        net.zero_grad(set_to_none=True)
        outputs = net(x_NF)
        if not remembers:
            right.append(outputs.detach().argmax(1) == y_N)
        nn.functional.cross_entropy(outputs, y_N).backward()
        step(len(y_N))
    return torch.cat(right)


def inside(net: Net, x: Tensor) -> tuple[float, float]:
    """Share of dead units over all hidden layers, and effective rank of the last one."""
    hidden: list[Tensor] = []
    units = [module for module in net.modules() if isinstance(module, nn.ReLU)]
    hooks = [module.register_forward_hook(lambda *call: hidden.append(call[-1])) for module in units]
    net.eval()
    with torch.no_grad():
        net(x)
    net.train()
    for hook in hooks:
        hook.remove()
    return float(np.mean([dead_share(h.abs().mean(0)) for h in hidden])), effective_rank(hidden[-1])


def blocks_of(right_TN: Tensor) -> list[float]:
    """Accuracy after a change, block by block, as the mean over tasks."""
    blocks = right_TN.shape[1] // BLOCK
    return right_TN[:, : blocks * BLOCK].reshape(len(right_TN), blocks, BLOCK).double().mean(dim=(0, 2)).tolist()


def records_to(level: float, blocks: Iterable[float]) -> float:
    """Records until the mean over tasks of a block reaches `level`; infinite if it never does."""
    return next((BLOCK * (1.0 + i) for i, accuracy in enumerate(blocks) if accuracy >= level), float("inf"))


def measure(run: Run) -> Row:
    images, counted = Images(run.task_records, run.seed), max(1, run.tasks // 5)
    started = time.process_time()
    net, step = build(run, run.seed)
    right = [learn(net, step, *images.task(number)) for number in range(run.tasks)]
    dead, rank = inside(net, images.task(run.tasks - 1)[0][-PROBE:])
    lasts = range(run.tasks - counted, run.tasks)
    fresh = torch.stack([learn(*build(run, 1_000 + number), *images.task(number)) for number in lasts])
    level = float(fresh.double().mean())
    return Row(
        **asdict(run),
        first=float(torch.cat(right[1 : 1 + counted]).double().mean()),
        last=float(torch.cat(right[-counted:]).double().mean()),
        fresh=level,
        dead=dead,
        rank=rank,
        regain=records_to(level, blocks_of(torch.stack(right[-counted:]))),
        regain_fresh=records_to(level, blocks_of(fresh)),
        cpu_s=time.process_time() - started,
    )


# ---------------------------------------------------------------- the table


def table(path: Path) -> str:
    rows = list(Results(path, Run, Row))
    lines = [
        "# Who is still able to learn after many changes",
        "",
        f"From `{path.name}` ({len(rows)} runs, {sum(row.cpu_s for row in rows) / 3600:.1f} CPU hours; "
        f"{platform.machine()}, one thread, torch {torch.__version__}). What is measured, and how: "
        "`bench_plasticity.py`. Accuracies and dead units in %; last - fresh in points: below 0, a new network would "
        "have done better on the last tasks. Means over the seeds named; one seed is one seed: differences under half "
        "a point say nothing.",
        "",
    ]
    for tasks, records in sorted({(row.tasks, row.task_records) for row in rows}, reverse=True):
        chosen = [row for row in rows if (row.tasks, row.task_records) == (tasks, records)]
        lines += [f"## {tasks} tasks of {records:,} records", ""]
        lines += [
            "| norm | optimizer | seeds | first | last | fresh | last - fresh | dead | rank | to regain | fresh |"
        ]
        lines += ["|---" * 11 + "|"]
        found = defaultdict(list)
        for row in chosen:
            found[row.norm, row.optimizer].append(row)
        pairs = sorted(found, key=lambda key: (NORMS.index(key[0]), -_mean(found[key], "last")))
        lines += [_line(norm, optimizer, found[norm, optimizer]) for norm, optimizer in pairs]
        lines.append("")
    return "\n".join(lines)


def _line(norm: str, optimizer: str, rows: list[Row]) -> str:
    seeds = ", ".join(str(row.seed) for row in sorted(rows, key=lambda row: row.seed))
    first, last, fresh, dead = (100 * _mean(rows, name) for name in ("first", "last", "fresh", "dead"))
    regain, again = (_mean(rows, name) for name in ("regain", "regain_fresh"))
    gain = f"{regain:,.0f}" if np.isfinite(regain) else "never"
    return (
        f"| {norm} | {optimizer} | {seeds} | {first:.1f} | {last:.1f} | {fresh:.1f} | {last - fresh:+.1f} | {dead:.0f} "
        f"| {_mean(rows, 'rank'):.0f} | {gain} | {again:,.0f} |"
    )


def _mean(rows: Iterable[Row], name: str) -> float:
    return float(np.mean([getattr(row, name) for row in rows]))


def main() -> None:
    def run(chosen: Namespace) -> None:
        results = Results(chosen.out, Run, Row)
        for seed, optimizer, norm in itertools.product(chosen.seeds, chosen.optimizers, chosen.norms):
            key = Run(norm=norm, optimizer=optimizer, tasks=chosen.tasks, task_records=chosen.records, seed=seed)
            print(results.once(key, measure), flush=True)

    run_or_table(
        __doc__,
        run,
        table,
        **HOW_MUCH,
        norms={"nargs": "+", "default": list(NORMS), "choices": NORMS},
        optimizers={"nargs": "+", "default": list(OPTIMIZERS), "choices": [*OPTIMIZERS, TOLD]},
    )


if __name__ == "__main__":
    main()
