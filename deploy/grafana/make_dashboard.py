"""Writes dashboard.json from the metric names of the code: python deploy/grafana/make_dashboard.py

Six rows, the six questions one asks of a trainer. A panel that names a metric which no longer exists fails here, not
in front of an operator. Edit this file, not the JSON; a test compares the two.
"""

import json
from pathlib import Path
from typing import Any

from stream_trainer.telemetry import names
from stream_trainer.telemetry.series import Family

HERE = '{job=~"$job", instance=~"$instance"}'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 8  # three panels a line


def now(family: Family, **labels: str) -> str:
    return family.name + HERE[:-1] + "".join(f', {name}="{value}"' for name, value in labels.items()) + "}"


def rate(family: Family, suffix: str = "") -> str:
    return f"rate({family.name}{suffix}{HERE}[$__rate_interval])"


def per_record(family: Family) -> str:
    """A counter's growth per record learned: the exact mean over the range, however the batches were cut."""
    return f"{rate(family)} / on (job, instance) group_left () {rate(names.LEARNED)}"


def quantile(q: float, family: Family) -> str:
    return f"histogram_quantile({q}, sum by (le) ({rate(family, '_bucket')}))"


def rise(family: Family, over: str = "$__rate_interval") -> str:
    return f"increase({family.name}{HERE}[{over}])"


def share_of_time(family: Family) -> str:
    return f"sum by (instance) ({rate(family, '_sum')})"


def panel(title: str, meaning: str, unit: str, *queries: tuple[str, str]) -> dict[str, Any]:
    """One time series panel; queries are (expression, legend)."""
    return {
        "type": "timeseries",
        "title": title,
        "description": meaning,
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": {"lineWidth": 1, "fillOpacity": 5, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]}},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(queries)
        ],
    }


ROWS: dict[str, list[dict[str, Any]]] = {
    "Is it keeping up?": [
        panel(
            "Records",
            "What became of the records that came in.",
            "cps",
            (rate(names.LEARNED), "learned"),
            (rate(names.DEAD_LETTERED), "dead letters: {{reason}}"),
            (rate(names.SKIPPED), "tombstones"),
        ),
        panel(
            "Lag",
            "Records not yet read. Growing means that more comes than is learned.",
            "short",
            (f"sum by (instance, topic) ({now(names.LAG)})", "{{instance}} {{topic}}"),
        ),
        panel(
            "Age when learned",
            "From when the log says a record was written to when it was learned. Large while an old log is read.",
            "s",
            (quantile(0.5, names.RECORD_AGE), "half are younger"),
            (quantile(0.99, names.RECORD_AGE), "99 % are younger"),
        ),
        panel(
            "Batch size",
            "Small when quiet, large when busy: the batcher takes what is there.",
            "short",
            (quantile(0.5, names.BATCH_SIZE), "median"),
            (quantile(0.99, names.BATCH_SIZE), "99 %"),
        ),
        panel(
            "Batches by what closed them",
            "Mostly `age`: quiet. Mostly `records`: busy.",
            "cps",
            (rate(names.BATCHES), "{{closed_by}}"),
        ),
        panel(
            "Share of time in the loop",
            "1 means that there is no time left: the limit of this trainer.",
            "percentunit",
            (share_of_time(names.STEP_SECONDS), "{{instance}}"),
        ),
    ],
    "Is it right?": [
        panel(
            "Mean error",
            "Share of wrong classes, or mean absolute error, predicted before learned; exact for any range.",
            "short",
            (per_record(names.ERROR), "{{model}}"),
        ),
        panel(
            "Score of late",
            "Fading scores of every model, and of predictions that need no model. A model below a baseline is no use.",
            "short",
            (now(names.SCORE, window="fading"), "{{model}} {{score}}"),
            (now(names.BASELINE, window="fading"), "{{baseline}} {{score}}"),
        ),
        panel(
            "Score since the beginning",
            "The same over the whole run.",
            "short",
            (now(names.SCORE, window="cumulative"), "{{model}} {{score}}"),
            (now(names.BASELINE, window="cumulative"), "{{baseline}} {{score}}"),
        ),
    ],
    "Has the world moved?": [
        panel(
            "Distance over threshold",
            "Above 1 a signal fires. The highest first: that is where to look.",
            "short",
            (f"topk(10, {now(names.DRIFT_SCORE)} / {now(names.DRIFT_THRESHOLD)})", "{{signal}} {{feature}}"),
        ),
        panel(
            "Detections",
            "Claims of the detectors within the last hour.",
            "short",
            (
                f"sum by (signal, model, direction) ({rise(names.DETECTIONS, '1h')})",
                "{{signal}} {{model}} {{direction}}",
            ),
        ),
        panel(
            "Since the last detection",
            "How long each signal has been quiet; a signal that never fired has no line.",
            "s",
            (f"time() - {now(names.LAST_DETECTION)}", "{{signal}}"),
        ),
        panel(
            "Missing and unseen",
            "Shares of recent records: absent, or outside what the reference holds. A silent sensor, or a new world.",
            "percentunit",
            (f"topk(5, {now(names.MISSING_RATIO)})", "{{feature}} missing"),
            (f"topk(5, {now(names.UNSEEN_RATIO)})", "{{feature}} unseen"),
        ),
        panel(
            "Layers: how far from usual",
            "Squared shift of the last batch; distance of recent and remembered moments, and what it usually is.",
            "short",
            (f"{now(names.NORM_SHIFT)} ^ 2", "{{model}} {{layer}} shift"),
            (now(names.NORM_DISTANCE), "{{model}} {{layer}} distance"),
            (now(names.NORM_USUAL), "{{model}} {{layer}} usual"),
        ),
        panel(
            "Layers: what they do about it",
            "Share of the fast moments, share of channels cut, and the scale of the last batch (1 at rest).",
            "short",
            (now(names.NORM_FAST_SHARE), "{{model}} {{layer}} fast"),
            (now(names.NORM_CLIPPED), "{{model}} {{layer}} clipped"),
            (now(names.NORM_SCALE), "{{model}} {{layer}} scale"),
        ),
        panel(
            "Reactions",
            "What followed within the last hour; race: challengers learn beside the model at this moment.",
            "short",
            (f"sum by (model, event, arm) ({rise(names.REACTIONS, '1h')})", "{{model}} {{event}} {{arm}}"),
            (now(names.RACE_ACTIVE), "{{model}} race"),
        ),
        panel(
            "Since the last reaction",
            "How long ago each of them was.",
            "s",
            (f"time() - {now(names.LAST_REACTION)}", "{{model}} {{event}}"),
        ),
        panel(
            "Drift events",
            "Told to the file or topic of events within the last hour; `lost`: it could not be reached for too long.",
            "short",
            (f"sum by (outcome) ({rise(names.EVENTS, '1h')})", "{{outcome}}"),
        ),
    ],
    "Can it still learn?": [
        panel(
            "Weights and steps",
            "Length of the weights over that at the start, stable rank, and length of one step over that of weights.",
            "short",
            (now(names.WEIGHT_RATIO), "{{model}} {{layer}} weights"),
            (now(names.STABLE_RANK), "{{model}} {{layer}} rank"),
            (now(names.UPDATE_RATIO), "{{model}} {{layer}} step"),
        ),
        panel(
            "Units",
            "Share that answered none of a thousand records, and share that hardly ever does.",
            "percentunit",
            (now(names.DEAD_RATIO), "{{model}} {{layer}} dead"),
            (now(names.DORMANT_RATIO), "{{model}} {{layer}} dormant"),
        ),
        panel(
            "Rank of the activations, and margin",
            "Directions that the activations use; margin: share of the loss that a new network saved in the last race, "
            "above 0 where it learned better.",
            "short",
            (now(names.EFFECTIVE_RANK), "{{model}} {{layer}} rank"),
            (now(names.FRESH_MARGIN), "{{model}} margin"),
        ),
    ],
    "What did it do?": [
        panel(
            "Learning rate",
            "As it was used, scaling and reactions included.",
            "short",
            (now(names.LEARNING_RATE), "{{model}}"),
        ),
        panel(
            "Gradient norm",
            "Of the last batch. A rise of orders of magnitude comes before a loss that is not finite.",
            "short",
            (now(names.GRADIENT_NORM), "{{model}}"),
        ),
        panel(
            "Scale of the outputs",
            "How far a network is taken at its word: below 1 it had been surer of its classes than it was right, as "
            "where the world moves faster than its labels come.",
            "short",
            (now(names.OUTPUT_SCALE), "{{model}}"),
        ),
        panel("Loss", "Mean of the last batch, before its step.", "short", (now(names.LOSS), "{{model}}")),
        panel(
            "Steps left out",
            "Nothing was learned from those batches: loss or gradient was not finite, or lbfgs refused the step.",
            "short",
            (rise(names.NONFINITE), "{{model}}"),
            (rise(names.REFUSED), "{{model}}, refused"),
        ),
        panel(
            "State",
            "The state that has the value 1.",
            "short",
            (f"{now(names.LIFECYCLE)} == 1", "{{instance}} {{state}}"),
        ),
        panel(
            "Trouble with the source",
            "Errors that passed by themselves, and consumers built anew after a stall.",
            "short",
            (rise(names.SOURCE_ERRORS), "errors"),
            (rise(names.REBUILDS), "rebuilds"),
            (rise(names.LOST_DATA), "lost data"),
            (rise(names.CORRUPT_FETCHES), "damaged fetches"),
            (now(names.SILENT), "silent, s"),
        ),
        panel(
            "Several trainers",
            "Of a group: partitions each one has, moves, and members that had to be fenced.",
            "short",
            (now(names.GROUP_PARTITIONS), "{{instance}} partitions"),
            (f"{now(names.GROUP_ROLE)} == 1", "{{instance}} {{role}}"),
            (rise(names.REBALANCES), "rebalances"),
            (rise(names.FENCES), "fences"),
        ),
        panel(
            "Age of the last checkpoint",
            "What a crash now would have to learn again.",
            "s",
            (f"time() - {now(names.CHECKPOINT_SAVED)}", "{{instance}}"),
        ),
        panel(
            "Checkpoints",
            "How long a save takes, in the background, and whether it succeeds.",
            "short",
            (quantile(0.99, names.CHECKPOINT_SECONDS), "99 % take fewer seconds"),
            (rise(names.CHECKPOINTS), "{{outcome}}"),
            (now(names.CORRUPT), "did not verify"),
        ),
        panel(
            "Size of a checkpoint",
            "Grows with River models, not with networks.",
            "bytes",
            (now(names.CHECKPOINT_BYTES), "{{instance}}"),
        ),
    ],
    "What does it cost?": [
        panel(
            "Memory",
            "Resident. It must be flat over days.",
            "bytes",
            (f"process_resident_memory_bytes{HERE}", "{{instance}}"),
        ),
        panel(
            "CPU",
            "Cores in use, and how much of that each model takes.",
            "short",
            (f"rate(process_cpu_seconds_total{HERE}[$__rate_interval])", "all of it"),
            (rate(names.LEARN_SECONDS), "{{model}} learns"),
            (rate(names.PREDICT_SECONDS), "{{model}} predicts"),
        ),
        panel(
            "Ourselves",
            "Open files; the time a scrape takes; updates left out because their labels were not announced.",
            "short",
            (f"process_open_fds{HERE}", "open files"),
            (now(names.COLLECTOR_SECONDS), "scrape seconds"),
            (now(names.DROPPED), "dropped label sets"),
        ),
    ],
}


def variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def laid_out() -> list[dict[str, Any]]:
    """All rows and panels with their place on the grid and a number each."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        placed.append({"type": "row", "title": title, "collapsed": False, "panels": []})
        placed[-1]["gridPos"] = {"x": 0, "y": y, "w": 24, "h": 1}
        y += 1
        for i, each in enumerate(panels):
            line, column = divmod(i, 24 // WIDTH)
            placed.append({**each, "gridPos": {"x": column * WIDTH, "y": y + line * HEIGHT, "w": WIDTH, "h": HEIGHT}})
        y += HEIGHT * -(-len(panels) // (24 // WIDTH))
    return [{"id": number, **each} for number, each in enumerate(placed, start=1)]


def dashboard() -> dict[str, Any]:
    return {
        "uid": "stream-trainer",
        "title": "stream_trainer",
        "description": "Generated by make_dashboard.py.",
        "tags": ["stream_trainer"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}},
                variable("job", f"label_values({names.BUILD.name}, job)"),
                variable("instance", f'label_values({names.BUILD.name}{{job=~"$job"}}, instance)'),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Drift",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "iconColor": "orange",
                    "expr": f"sum by (signal, model, direction) ({rise(names.DETECTIONS)}) > 0",
                    "titleFormat": "{{signal}} {{model}} {{direction}}",
                }
            ]
        },
        "panels": laid_out(),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("dashboard.json").write_text(text())
