"""What does a norm layer buy? The claims of the textbooks, measured online: each record predicted, then learned.

1. A wider choice of learning rates: decades of the rates whose accuracy is within one point of the layer's best.
2. Less care for the initial weights: every weight matrix times .1 to 10, at the rate that was best for times 1.
3. Less need of dropout: with and without, each at its best rate.
4. Networks that learn at all: the LeNet with sigmoids, against the same with ReLU.

One pass over Fashion-MNIST under plain SGD. A seed of its own chooses rates; the tables are made of the others.

    python tests/benchmarks/bench_what_norms_buy.py run --out tests/benchmarks/what_norms_buy_DATE.csv
    python tests/benchmarks/bench_what_norms_buy.py table tests/benchmarks/what_norms_buy_DATE.csv
"""

import itertools
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from online_run import learn_online
from online_streams import batches, stream
from resumable import Results, describe_machine, run_or_table
from torch import nn

from stream_trainer.models.networks import build_network
from stream_trainer.schema import InputWidths

LAYERS = ("none", "batch", "batch_renorm", "online", "layer", "group", "adaptive_batch_renorm")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
DROPOUT = 0.5
CUTS = ("32", "4")
LENETS = ("lenet-sigmoid", "lenet-relu")
RECORDS = {"mlp": 6_000, "lenet-sigmoid": 12_000, "lenet-relu": 12_000}
TUNING_SEED = 0
WITHIN = 0.01  # of accuracy: one point


@dataclass(frozen=True, kw_only=True)
class Run:
    net: str  # mlp (196-128-128-10, images 14 x 14), or the LeNet of 1998 with sigmoid or relu (28 x 28)
    cut: str
    norm: str
    rate: float
    weight_scale: float
    dropout: float
    seed: int
    records: int


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    prequential: float
    held_out: float
    cpu_s: float


# ---------------------------------------------------------------- one run


def network_of(run: Run, shape: tuple[int, ...]) -> nn.Module:
    """The product's own network, every weight matrix times `weight_scale`."""
    options: dict[str, Any] = {"hidden": (128, 128)}
    if run.net != "mlp":
        options = {"activation": run.net.removeprefix("lenet-")}
    widths = InputWidths(numbers=0, arrays=(shape,))
    net = build_network(run.net.partition("-")[0], widths, 10, norm=run.norm, dropout=run.dropout, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter *= run.weight_scale
    return net


def measure(run: Run) -> Row:
    data = stream("fashion" if run.net == "mlp" else "fashion28", "iid", run.records, run.seed, images=True)
    torch.manual_seed(run.seed)
    net = network_of(run, tuple(data.x.shape[1:]))
    optimizer = torch.optim.SGD(net.parameters(), lr=run.rate)
    started = time.process_time()
    outcome = learn_online(
        net,
        lambda n: optimizer.step(),
        data,
        batches(run.cut, run.records, run.seed),
        singles_are_refused=run.norm == "batch",
    )
    return Row(
        **asdict(run),
        prequential=outcome.prequential,
        held_out=outcome.held_out,
        cpu_s=time.process_time() - started,
    )


# ---------------------------------------------------------------- all of them


def plain(net: str, cut: str, norm: str, rate: float, seed: int) -> Run:
    return Run(net=net, cut=cut, norm=norm, rate=rate, weight_scale=1.0, dropout=0.0, seed=seed, records=RECORDS[net])


def run_all(path: Path, seeds: int) -> None:
    """Question by question, each whole before the next; the first seed chooses the rates."""
    results = Results(path, Run, Row)
    for net, cut in (("mlp", "32"), ("lenet-sigmoid", "32"), ("mlp", "4"), ("lenet-relu", "32")):
        for norm in LAYERS:
            _run_layer(results, plain(net, cut, norm, RATES[0], TUNING_SEED), seeds)


def _run_layer(results: Results[Run, Row], base: Run, seeds: int) -> None:
    """Every rate, then, of the MLP, dropout at the best rate and its neighbours; other weights at the best rate."""
    best = best_of([results.once(replace(base, rate=rate), measure) for rate in RATES])
    with_dropout: list[Run] = []
    if base.net == "mlp":
        tried = [replace(base, rate=rate, dropout=DROPOUT) for rate in around(best)]
        with_dropout = [replace(base, rate=best_of([results.once(run, measure) for run in tried]), dropout=DROPOUT)]
    runs = [replace(base, rate=rate) for rate in (RATES if base.net == "mlp" else (best,))]
    scaled = [replace(base, rate=best, weight_scale=scale) for scale in SCALES] if base.net == "mlp" else []
    for seed, run in itertools.product(range(1, seeds + 1), [*runs, *scaled, *with_dropout]):
        results.once(replace(run, seed=seed), measure)


def best_of(rows: list[Row]) -> float:
    return max(rows, key=lambda row: row.prequential).rate


def around(rate: float) -> tuple[float, ...]:
    """The rate and its neighbours in the grid."""
    at = RATES.index(rate)
    return RATES[max(0, at - 1) : at + 2]


# ---------------------------------------------------------------- the tables


class Found:
    """Accuracies in %, one per fresh seed, by what was run."""

    def __init__(self, results: Results[Run, Row]) -> None:
        self._by_run: dict[Run, list[float]] = defaultdict(list)
        tuning: dict[tuple[str, str, str, float], list[Row]] = defaultdict(list)
        for row in results:
            run = Run(**{name: value for name, value in asdict(row).items() if name in Run.__dataclass_fields__})
            if run.seed == TUNING_SEED:
                tuning[run.net, run.cut, run.norm, run.dropout].append(row)
            else:
                self._by_run[replace(run, seed=TUNING_SEED)].append(100 * row.prequential)
        self._best = {key: best_of(rows) for key, rows in tuning.items()}

    def rate(self, net: str, cut: str, norm: str, dropout: float = 0.0) -> float:
        return self._best.get((net, cut, norm, dropout), math.nan)

    def scores(self, net: str, cut: str, norm: str, rate: float | None = None, **changes: float) -> list[float]:
        """At the chosen rate unless another is named."""
        rate = rate or self.rate(net, cut, norm, changes.get("dropout", 0.0))
        return self._by_run.get(replace(plain(net, cut, norm, rate, TUNING_SEED), **changes), [])

    def cuts(self) -> list[str]:
        """Batch sizes at which every layer has been run by the MLP."""
        return [cut for cut in CUTS if all(self.scores("mlp", cut, norm) for norm in LAYERS)]

    def nets(self) -> list[str]:
        """LeNets with which every layer has been run."""
        return [net for net in LENETS if all(self.scores(net, "32", norm) for norm in LAYERS)]

    def curve(self, net: str, cut: str, norm: str) -> list[float]:
        return [float(np.mean(self.scores(net, cut, norm, rate) or [math.nan])) for rate in RATES]


def width_decades(curve: list[float]) -> tuple[float, bool]:
    """Decades of rates within one point of the best, the curve taken as straight between the points of the grid;
    and whether it is still within at the first or last rate."""
    best = np.nanmax(curve)
    log_rate = np.linspace(np.log10(RATES[0]), np.log10(RATES[-1]), 4_001)
    values = np.interp(log_rate, np.log10(RATES), np.nan_to_num(curve))
    good = values >= best - 100 * WITHIN
    return float(good.mean() * (log_rate[-1] - log_rate[0])), bool(good[0] or good[-1])


def table(path: Path) -> str:
    results = Results(path, Run, Row)
    found = Found(results)
    seeds = len({row.seed for row in results} - {TUNING_SEED})
    lines = [
        "# What a norm layer buys, online",
        "",
        f"From `{path.name}` ({len(results)} runs, {sum(row.cpu_s for row in results) / 60:.0f} CPU minutes; "
        f"{describe_machine()}). Fashion-MNIST, shuffled, one pass; prequential accuracy in %, mean (sd) over {seeds} "
        f"seed(s). Plain SGD; rates {RATES}, the best for each layer and batch chosen by another seed. MLP "
        f"196-128-128-10 over {RECORDS['mlp']} images of 14 x 14; LeNet over {RECORDS['lenet-relu']} of 28 x 28 in "
        "batches of 32.",
        "",
        *_rates(found, path),
        *_scales(found),
        *_dropout(found),
        *_lenets(found),
    ]
    return "\n".join(lines) + "\n"


def _rates(found: Found, path: Path) -> list[str]:
    lines = ["## 1. Learning rates within one point of the best", "", f"![curves]({path.with_suffix('.svg').name})", ""]
    lines += ["| layer |" + "".join(f" batch {cut}: decades | best rate | accuracy |" for cut in found.cuts())]
    lines.append("|---" * (1 + 3 * len(found.cuts())) + "|")
    for norm in LAYERS:
        texts = []
        for cut in found.cuts():
            width, at_edge = width_decades(found.curve("mlp", cut, norm))
            rate = found.rate("mlp", cut, norm)
            texts += [f"{'≥ ' if at_edge else ''}{width:.1f}", f"{rate:g}", _mean_sd(found.scores("mlp", cut, norm))]
        lines.append(f"| {norm} | " + " | ".join(texts) + " |")
    return [*lines, ""]


def _scales(found: Found) -> list[str]:
    lines = ["## 2. Initial weights times", ""]
    for cut in found.cuts():
        lines += [f"| layer, batch {cut} | " + " | ".join(f"{s:g}" for s in SCALES) + " | spread |"]
        lines.append("|---" * (len(SCALES) + 2) + "|")
        for norm in LAYERS:
            scores = [found.scores("mlp", cut, norm, weight_scale=scale) for scale in SCALES]
            means = [float(np.mean(s)) for s in scores]
            texts = [_mean_sd(s) for s in scores]
            lines.append(f"| {norm} | " + " | ".join(texts) + f" | {max(means) - min(means):.1f} |")
        lines.append("")
    return lines


def _dropout(found: Found) -> list[str]:
    lines = [f"## 3. Dropout {DROPOUT:g}", ""]
    lines += ["| layer |" + "".join(f" batch {cut}: without | with | gain |" for cut in found.cuts())]
    lines.append("|---" * (1 + 3 * len(found.cuts())) + "|")
    for norm in LAYERS:
        texts = []
        for cut in found.cuts():
            without, with_ = found.scores("mlp", cut, norm), found.scores("mlp", cut, norm, dropout=DROPOUT)
            texts += [_mean_sd(without), _mean_sd(with_), f"{np.mean(with_) - np.mean(without):+.1f}"]
        lines.append(f"| {norm} | " + " | ".join(texts) + " |")
    return [*lines, ""]


def _lenets(found: Found) -> list[str]:
    nets = found.nets()
    if not nets:
        return ["## 4. LeNet", "", "Not yet run with every layer."]
    lines = ["## 4. LeNet, batch 32", "", "| layer |" + "".join(f" {net} | best rate |" for net in nets)]
    lines.append("|---" * (1 + 2 * len(nets)) + "|")
    for norm in LAYERS:
        texts = [f"{_mean_sd(found.scores(net, '32', norm))} | {found.rate(net, '32', norm):g}" for net in nets]
        lines.append(f"| {norm} | " + " | ".join(texts) + " |")
    return lines


def _mean_sd(scores: list[float]) -> str:
    sd = f" ({np.std(scores):.1f})" if len(scores) > 1 else ""
    return f"{np.mean(scores):.1f}{sd}" if scores else ""


def figure(path: Path) -> None:
    """Accuracy against the rate, one line a layer, one plot a batch size."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "stream_trainer"
    from matplotlib import pyplot as plt

    found = Found(Results(path, Run, Row))
    cuts = found.cuts()
    plot, row = plt.subplots(1, len(cuts), figsize=(1 + 5 * len(cuts), 4), sharey=True, squeeze=False)
    for axes, cut in zip(row[0], cuts, strict=True):
        for norm in LAYERS:
            wide = norm == "adaptive_batch_renorm"
            axes.plot(RATES, found.curve("mlp", cut, norm), marker="o", label=norm, linewidth=2.5 if wide else 1.2)
        axes.set(xscale="log", xlabel="learning rate (SGD)", title=f"batches of {cut}")
        axes.grid(alpha=0.3)
    row[0, 0].set_ylabel("prequential accuracy, %")
    row[0, 0].legend(frameon=False, fontsize=8)
    plot.tight_layout()
    plot.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def table_and_figure(path: Path) -> str:
    figure(path)
    return table(path)


def main() -> None:
    seeds = {"type": int, "default": 3, "help": "besides the one that chooses the rates"}
    run_or_table(__doc__, lambda chosen: run_all(chosen.out, chosen.seeds), table_and_figure, seeds=seeds)


if __name__ == "__main__":
    main()
