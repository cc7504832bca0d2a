"""Results of `stream-trainer drift-bench` for readers: Markdown tables, a CSV line for each number, a figure."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from stream_trainer.drift.evaluate import Verdict, pooled
from stream_trainer.errors import ConfigError
from stream_trainer.service.drift_bench import Cost, Line

__all__ = ["costs_text", "csv_text", "markdown_text", "require_matplotlib", "write_figure"]

_COLUMNS = (
    "group",
    "stream",
    "detector",
    "horizon_records",
    "changes",
    "missed",
    "delay_median",
    "delay_p95",
    "normalised_detection_time",
    "false_alarms",
    "stable_records",
    "false_per_100k",
    "run_length_records",
    "run_length_hours",
    "record_us",
    "relative_runtime_overhead",
)
_EXPLAINED = """\
Delays are records from a change to the end of the batch in which it was told, median / 95th percentile of the changes
found; in brackets the changes missed. NDT: mean delay in horizons, a missed change counting 1. F: false alarms per
100,000 records outside all horizons. Run length: those records per false alarm, `>` if there was none; hours at
{rate:,g} records/s.
"""


def markdown_text(lines: Sequence[Line], costs: Sequence[Cost], *, records_per_s: float, batch_records: int) -> str:
    """A table for each group of cases, and one of costs."""
    parts = [_EXPLAINED.format(rate=records_per_s)]
    for group in dict.fromkeys(line.case.group for line in lines):
        own = [line for line in lines if line.case.group == group]
        horizons = dict.fromkeys(line.case.horizon_records for line in own)
        parts.append(f"## {group}: horizon {' or '.join(f'{h:,}' for h in horizons)} records\n")
        parts.append(_group_table(own, records_per_s))
    if costs:
        parts.append(costs_text(costs, batch_records=batch_records))
    return "\n".join(parts)


def costs_text(costs: Sequence[Cost], *, batch_records: int) -> str:
    """What each detector costs beside a training step on the same batch."""
    rows = [[cost.label, f"{cost.record_us:.3f}", f"{cost.relative_overhead:.3f}"] for cost in costs]
    return f"## costs: CPU beside a step of the default network, batches of {batch_records:,}\n\n" + _table(
        ["detector", "µs a record", "relative runtime overhead"], rows
    )


def _group_table(lines: Sequence[Line], records_per_s: float) -> str:
    names = list(dict.fromkeys(line.case.name for line in lines))
    head = ["detector", *names, "found", "NDT", "F", "run length", "hours"]
    rows = []
    for label in dict.fromkeys(line.label for line in lines):
        verdicts = {line.case.name: line.verdict for line in lines if line.label == label}
        known = [verdict for verdict in verdicts.values() if verdict is not None]
        row = [label, *(_cell(verdicts[name]) for name in names)]
        rows.append([*row, *(_totals(pooled(known), records_per_s) if known else ["–"] * 5)])
    return _table(head, rows)


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "–"
    if not verdict.n_changes:
        return f"F {verdict.false_per_100k:.2f}"
    missed = f" ({verdict.n_missed} missed)" if verdict.n_missed else ""
    return f"{verdict.delay_median:,.0f} / {verdict.delay_p95:,.0f}{missed}" if verdict.delays else f"–{missed}"


def _totals(verdict: Verdict, records_per_s: float) -> list[str]:
    length = verdict.stable_records / max(verdict.n_false, 1)
    at_least = "" if verdict.n_false else "> "
    return [
        f"{len(verdict.delays)} of {verdict.n_changes}" if verdict.n_changes else "–",
        f"{verdict.normalised_detection_time:.3f}" if verdict.n_changes else "–",
        f"{verdict.false_per_100k:.2f}",
        f"{at_least}{length:,.0f}",
        f"{at_least}{length / records_per_s / 3600:,.2f}",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def csv_text(lines: Sequence[Line], costs: Sequence[Cost], *, records_per_s: float) -> str:
    """A line for each detector and case; empty where there is nothing to say, `inf` for no false alarm."""
    overhead = {cost.label: cost for cost in costs}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for line in lines:
        v, cost = line.verdict, overhead.get(line.label)
        if v is None:
            continue
        numbers = [
            v.horizon_records, v.n_changes, v.n_missed, v.delay_median, v.delay_p95, v.normalised_detection_time,
            v.n_false, v.stable_records, v.false_per_100k, v.run_length_records, v.run_length_hours(records_per_s),
            cost.record_us if cost else math.nan, cost.relative_overhead if cost else math.nan,
        ]  # fmt: skip
        writer.writerow([line.case.group, line.case.name, line.label, *map(_shown, numbers)])
    return out.getvalue()


def _shown(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.6g}" if isinstance(number, float) else str(number)


def require_matplotlib() -> None:
    """Raises: ConfigError: it is not there; better said before minutes of work than after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError("--figure needs matplotlib: pip install 'stream-trainer[report]'.") from error


def write_figure(lines: Sequence[Line], path: Path) -> None:
    """A panel for each group with changes: false alarms to the right, lateness upwards; below and left is better."""
    require_matplotlib()
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "stream_trainer"  # the same file for the same numbers
    from matplotlib import pyplot as plt

    labels = list(dict.fromkeys(line.label for line in lines))
    groups = [g for g in dict.fromkeys(line.case.group for line in lines) if _changes_of(lines, g)]
    if not groups:
        raise ConfigError("--figure: none of the chosen streams has a change; add shifts, losses or generators.")
    figure, axes = plt.subplots(1, len(groups), figsize=(1.5 + 4.2 * len(groups), 5), squeeze=False, sharey=True)
    for axis, group in zip(axes[0], groups, strict=True):
        for number, label in enumerate(labels):
            own = [line for line in _changes_of(lines, group) if line.label == label]
            known = [line.verdict for line in own if line.verdict is not None]
            if known:
                verdict = pooled(known)
                axis.plot(
                    verdict.false_per_100k,
                    verdict.normalised_detection_time,
                    marker="osv^D*Xp<>hP"[number % 12],
                    color=f"C{number % 10}",
                    markersize=9,
                    linestyle="none",
                    label=label,
                )
        axis.set(title=group, xlabel="false alarms per 100,000 records", ylim=(-0.03, 1.03))
        axis.set_xscale("symlog", linthresh=0.1)
        axis.set_xlim(left=-0.02)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("delay in horizons, a missed change counting 1")
    handles = {text: handle for axis in axes[0] for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, fontsize="small"
    )
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _changes_of(lines: Sequence[Line], group: str) -> list[Line]:
    return [line for line in lines if line.case.group == group and (line.verdict is None or line.verdict.n_changes)]
