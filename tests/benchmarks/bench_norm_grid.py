"""Which norm layer survives which batches? Error for every layer, cut, order and data set, on the best rate of each.

For each cell (data set, order, cut, layer) three seeds of their own choose the learning rate from one grid, which goes
on for as long as its last rate is the best; the table is made of other seeds at that rate, so the best of five rates is
not lucky twice. With one seed to choose by, chance decided between rates that lie a point or two apart, for every
layer. One row of the CSV is one run; a run that is in the file is not repeated, so the grid may be stopped and go on,
and grow. "sgd:32" learns batches in steps of at most 32 records, as the product does by default; batches of up to 32
are then the same runs as those of "sgd".

    python tests/benchmarks/bench_norm_grid.py run --out tests/benchmarks/norm_grid_DATE.csv [--data fashion ...]
    python tests/benchmarks/bench_norm_grid.py table tests/benchmarks/norm_grid_DATE.csv
"""

import itertools
import platform
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from online_run import Outcome, Step, learn_online
from online_streams import CUTS, ORDERS, Stream, batches, stream
from resumable import Results, run_or_table
from torch import nn

from stream_trainer.models.networks import build_network
from stream_trainer.norms import NORMS
from stream_trainer.optimizers import StreamAdamW
from stream_trainer.schema import InputWidths

RECORDS = 4_000
LAYERS = ("none", "batch", "batch_renorm", "online", "layer", "group", "continual", "adaptive_batch_renorm")
OURS = "adaptive_batch_renorm"
RATES = {"sgd": (0.01, 0.03, 0.1, 0.3, 1.0), "stream_adamw": (0.0005, 0.001, 0.002, 0.004)}
BEYOND = {"sgd": (0.0003, 0.001, 0.003, 3.0, 10.0), "stream_adamw": (0.00025, 0.008)}  # where the best is at an end
TORCHS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
BETAS: dict[str, float | str] = {"stream_adamw": "auto", "stream_adamw_no_mean": 0.0, "stream_adamw_mean": 0.9}  # beta1
TUNING_SEEDS = (0, 6, 7)
SEEDS = (1, 2, 3, 4, 5)
HIDDEN = (128, 128)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was run: one row's key."""

    data: str  # a data set, or data set + "-lenet"
    order: str
    cut: str
    norm: str
    optimizer: str  # a name, or name + ":32": batches are learned in steps of at most so many records
    rate: float
    seed: int
    records: int = RECORDS


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    """What came out: accuracies as shares, and the CPU seconds it took."""

    prequential: float
    held_out: float
    held_out_in_training_mode: float
    cpu_s: float


def network_of(data: Stream, norm: str, norm_options: dict[str, Any]) -> nn.Module:
    """The product's own network for this stream: an MLP, or the LeNet where records are images."""
    shape = tuple(data.x.shape[1:])
    if len(shape) == 1:
        widths, net, hidden = InputWidths(numbers=shape[0]), "mlp", {"hidden": HIDDEN}
    else:
        widths, net, hidden = InputWidths(numbers=0, arrays=(shape,)), "lenet", {}
    return build_network(net, widths, data.classes, norm=norm, norm_options=norm_options, **hidden)


def stepper_of(net: nn.Module, optimizer: str, rate: float) -> Step:
    if optimizer in BETAS:
        ours = StreamAdamW(net.parameters(), lr=rate, beta1=BETAS[optimizer])
        return lambda n: ours.step(records=n)
    theirs = TORCHS[optimizer](net.parameters(), lr=rate)
    return lambda n: theirs.step()


def norm_options(norm: str, optimizer: str) -> dict[str, Any]:
    """As the configuration wires it: damping on where the optimizer counts steps, off where it counts records."""
    return {"damping": "none"} if norm in (OURS, "continual") and optimizer.startswith("stream_adamw") else {}


def measure(run: Run) -> Row:
    name, _, kind = run.data.partition("-")
    data = stream(name, run.order, run.records, run.seed, images=kind == "lenet")
    torch.manual_seed(run.seed)
    optimizer, _, step_records = run.optimizer.partition(":")
    net = network_of(data, run.norm, norm_options(run.norm, optimizer))
    started = time.process_time()
    outcome: Outcome = learn_online(
        net,
        stepper_of(net, optimizer, run.rate),
        data,
        batches(run.cut, run.records, run.seed),
        singles_are_refused=run.norm == "batch",
        step_records_max=int(step_records) if step_records else None,
    )
    return Row(**asdict(run), **asdict(outcome), cpu_s=round(time.process_time() - started, 2))


# ---------------------------------------------------------------- the grid


def run_all(path: Path, datasets: Iterable[str], optimizer: str) -> None:
    results = Results(path, Run, Row)
    name, _, step_records = optimizer.partition(":")
    for data, cut, order, norm in itertools.product(datasets, _cheap_first(CUTS), ORDERS, LAYERS):
        if (norm, cut) == ("batch", "1") or _fits_one_step(cut, step_records):
            continue  # the one cannot learn from batches of one, the other stands there under the optimizer's own name
        cell = {"data": data, "order": order, "cut": cut, "norm": norm, "optimizer": optimizer}
        best = tune(results, cell, name)
        for seed in SEEDS:
            results.once(Run(**cell, rate=best, seed=seed), measure)  # type: ignore[arg-type]


def tune(results: Results, cell: dict[str, Any], optimizer: str) -> float:
    """The best rate of a cell, of a grid that has a worse one on either side of it, or ends."""
    rates, tuned = list(RATES[optimizer]), list[Row]()
    while rates:
        for rate, seed in itertools.product(rates, TUNING_SEEDS):
            tuned.append(results.once(Run(**cell, rate=rate, seed=seed), measure))
        best, tried = best_rate(tuned), {row.rate for row in tuned}
        beyond = [rate for rate in BEYOND[optimizer] if rate not in tried]
        lower = [rate for rate in beyond if rate < min(tried)][-1:] if best == min(tried) else []
        higher = [rate for rate in beyond if rate > max(tried)][:1] if best == max(tried) else []
        rates = lower + higher
    return best


def best_rate(tuned: Iterable[Row]) -> float:
    """The one with the highest mean over the tuning seeds."""
    found = defaultdict(list)
    for row in tuned:
        found[row.rate].append(row.prequential)
    return max(found, key=lambda rate: float(np.mean(found[rate])))


def _fits_one_step(cut: str, step_records: str) -> bool:
    return bool(step_records) and cut.isdigit() and int(cut) <= int(step_records)


def _cheap_first(cuts: Iterable[str]) -> list[str]:
    """Large batches first: a grid that is stopped early has whole cells, not halves of dear ones."""
    return sorted(cuts, key=lambda cut: 64 / int(cut) if cut.isdigit() else 3)


# ---------------------------------------------------------------- the table


def cells(rows: Iterable[Row]) -> dict[tuple[str, str, str, str, str], list[Row]]:
    """(optimizer, data, order, cut, norm) -> the runs on fresh seeds, at the rate that the tuning seeds chose."""
    tuned, found = defaultdict(list), defaultdict(list)
    for row in rows:
        place = row.optimizer, row.data, row.order, row.cut, row.norm
        (tuned if row.seed in TUNING_SEEDS else found)[place].append(row)
    rates = {place: best_rate(runs) for place, runs in tuned.items()}
    return {place: [row for row in runs if row.rate == rates[place]] for place, runs in found.items()}


def table(path: Path) -> str:
    rows = list(Results(path, Run, Row))
    found = cells(rows)
    lines = [
        "# Error against batch size, layer by layer",
        "",
        f"From `{path.name}` ({len(rows)} runs, {sum(row.cpu_s for row in rows) / 3600:.1f} CPU hours; "
        f"{platform.machine()}, one thread, torch {torch.__version__}). Streams of {RECORDS} records, an MLP with "
        f"{HIDDEN} hidden units or the LeNet of the product. Prequential accuracy in %, mean over seeds {SEEDS} at the "
        f"rate that seeds {TUNING_SEEDS} chose among {RATES}, and where the best was at an end beyond it ({BEYOND}); "
        "sd over seeds in brackets. A cell with fewer runs than seeds is left out. Bold: best of its column or within "
        "one point of it.",
        "",
    ]
    for optimizer, data, order in sorted({key[:3] for key in found}):
        lines += _one_table(found, optimizer, data, order)
    lines += _summary(found)
    lines += _spreads(found)
    return "\n".join(lines) + "\n"


def _one_table(found: dict, optimizer: str, data: str, order: str) -> list[str]:
    lines = [f"## {data}, {order}, {optimizer}", "", "| layer | " + " | ".join(CUTS) + " | widest gap |"]
    lines.append("|---" * (len(CUTS) + 2) + "|")
    complete = _complete(found, optimizer, data, order)
    for norm in LAYERS:
        texts, gaps = [], []
        for cut in CUTS:
            if (cut, norm) not in complete:
                texts.append("refused" if (norm, cut) == ("batch", "1") else "")
                continue
            runs = complete[cut, norm]
            accuracy, sd = 100 * np.mean([r.prequential for r in runs]), 100 * np.std([r.prequential for r in runs])
            best = max(100 * np.mean([r.prequential for r in complete[c, m]]) for c, m in complete if c == cut)
            texts.append(
                f"{'**' if accuracy > best - 1 else ''}{accuracy:.1f}{'**' if accuracy > best - 1 else ''} ({sd:.1f})"
            )
            gaps.append(100 * abs(np.mean([r.held_out - r.held_out_in_training_mode for r in runs])))
        lines.append(f"| {norm} | " + " | ".join(texts) + f" | {max(gaps, default=float('nan')):.1f} |")
    return [*lines, ""]


def _complete(found: dict, optimizer: str, data: str, order: str) -> dict[tuple[str, str], list[Row]]:
    """(cut, norm) -> runs; also those of the same optimizer in one step a batch, where it comes to the same."""
    name, _, step_records = optimizer.partition(":")
    return {
        (cut, norm): runs
        for (of, *place, cut, norm), runs in found.items()
        if place == [data, order]
        and (of == optimizer or (of == name and _fits_one_step(cut, step_records)))
        and len(runs) >= len(SEEDS)
    }


def _summary(found: dict) -> list[str]:
    """How far each layer is behind the best of its cell, over the cells that have every layer."""
    behind: dict[tuple[str, str], list[float]] = defaultdict(list)
    for optimizer, data, order in {key[:3] for key in found}:
        complete = _complete(found, optimizer, data, order)
        for cut in CUTS:
            scores = {m: 100 * np.mean([r.prequential for r in runs]) for (c, m), runs in complete.items() if c == cut}
            if set(LAYERS) - {"batch"} <= set(scores):
                for norm, score in scores.items():
                    behind[optimizer, norm].append(max(scores.values()) - score)
    lines = ["## Behind the best of the cell, in points", ""]
    lines += ["| optimizer | layer | cells | best or within 1 | mean | most |", "|---|---|---|---|---|---|"]
    for (optimizer, norm), points in sorted(behind.items(), key=lambda item: (item[0][0], np.mean(item[1]))):
        within = sum(p <= 1 for p in points)
        lines.append(f"| {optimizer} | {norm} | {len(points)} | {within} | {np.mean(points):.1f} | {max(points):.1f} |")
    return lines


def _spreads(found: dict) -> list[str]:
    """Does the cut matter in the end? Accuracy on held-out records, widest minus narrowest over the cuts."""
    lines = ["", "## On held-out records after the last batch: mean over the cuts (widest minus narrowest)", ""]
    learned = sorted({key[:3] for key in found})
    lines += ["| layer | " + " | ".join(", ".join(place) for place in learned) + " |"]
    lines.append("|---" * (len(learned) + 1) + "|")
    for norm in LAYERS:
        texts = []
        for place in learned:
            complete = _complete(found, *place)
            finals = [100 * np.mean([row.held_out for row in runs]) for (_, m), runs in complete.items() if m == norm]
            texts.append(f"{np.mean(finals):.1f} ({max(finals) - min(finals):.1f})" if finals else "")
        lines.append(f"| {norm} | " + " | ".join(texts) + " |")
    return [*lines, "", "BatchNorm refuses batches of one: its spread is over the other cuts."]


def main() -> None:
    data = {"nargs": "+", "default": ["fashion", "elec2", "digits", "covtype", "fashion-lenet"]}
    optimizer = {"choices": [*RATES, *(f"{name}:32" for name in RATES)], "default": "sgd"}
    assert set(LAYERS) <= set(NORMS)
    run_or_table(__doc__, lambda c: run_all(c.out, c.data, c.optimizer), table, data=data, optimizer=optimizer)


if __name__ == "__main__":
    main()
