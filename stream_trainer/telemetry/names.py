"""Every name we export: type, labels, meaning. Dashboards, alert rules and the runbook are checked against this file.

Prefix `stream_trainer_`, base units, counters end in `_total`, moments in time and not ages. Labels hold names from the
configuration, partitions and our own enumerations, never anything from inside a record.
"""

from stream_trainer.telemetry.series import Family, Kind

__all__ = ["METRICS", "metrics_table"]  # and each family below, as names.LEARNED

LABEL_SETS_MAX = 1024  # per family, where labels are learned while running: partitions, scores, features


def _counter(name: str, help: str, *labels: str, label_sets_max: int = 0) -> Family:
    full_name = f"stream_trainer_{name}_total"
    return Family(name=full_name, kind=Kind.COUNTER, help=help, labels=labels, label_sets_max=label_sets_max)


def _gauge(name: str, help: str, *labels: str, label_sets_max: int = 0) -> Family:
    full_name = f"stream_trainer_{name}"
    return Family(name=full_name, kind=Kind.GAUGE, help=help, labels=labels, label_sets_max=label_sets_max)


def _histogram(name: str, help: str, *buckets: float) -> Family:
    return Family(name=f"stream_trainer_{name}", kind=Kind.HISTOGRAM, help=help, buckets=buckets)


# The stream: what came in, and how far behind we are.
LEARNED = _counter("records_learned", "Records the models learned from.")
DEAD_LETTERED = _counter("records_dead_lettered", "Records no model will see, by reason.", "reason")
SKIPPED = _counter("records_skipped", "Tombstones: records without a value.")
BYTES = _counter("bytes", "Bytes of record values, before decoding.")
BATCHES = _counter("batches", "Batches, by the bound that closed them.", "closed_by")
BATCH_SIZE = _histogram(
    "batch_size_records",
    "Records learned per batch; 0: all of them were rejected.",
    *(0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
RECORD_AGE = _histogram(
    "record_age_seconds",
    "From when the log says a record was written to when it was learned.",
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0, 86400.0),
)
LAST_RECORD = _gauge("last_record_timestamp_seconds", "When the newest record of the last batch was written.")
LAST_STEP = _gauge("last_step_timestamp_seconds", "When the last batch was finished.")
NEXT_OFFSET = _gauge(
    "next_offset", "First offset not yet learned.", "topic", "partition", label_sets_max=LABEL_SETS_MAX
)
LAG = _gauge("consumer_lag_records", "Records not yet read.", "topic", "partition", label_sets_max=LABEL_SETS_MAX)
REBUILDS = _counter("source_rebuilds", "Times the consumer was thrown away and built anew because nothing came.")
SOURCE_ERRORS = _counter("source_errors", "Errors of the source that passed when it tried again.")
LOST_DATA = _counter("source_lost_data", "Times it went on without records that are gone, as lost_data says.")
CORRUPT_FETCHES = _counter("source_corrupt_fetches", "Batches of records that arrived damaged and were fetched again.")
SILENT = _gauge("source_silent_seconds", "Time spent waiting since anything came from the source, from any partition.")

# The group: who learns what. No gauge where source.kafka.group is not set.
GROUP_ROLE = _gauge("group_role", "1 for our part in the group, 0 for the others.", "role")
GROUP_PARTITIONS = _gauge("group_partitions", "Partitions that are ours to learn now.")
REBALANCES = _counter("group_rebalances", "Times that the group assigned other partitions to us.")
FENCES = _counter("group_fences", "Members that we fenced, because they did not hand over in time.")

# Training: what a step costs and does.
STEP_SECONDS = _histogram(
    "train_step_seconds",
    "One batch: decode, predict, score, watch for drift, learn.",
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
PREDICT_SECONDS = _counter("predict_seconds", "Time spent predicting.", "model")
LEARN_SECONDS = _counter("learn_seconds", "Time spent learning.", "model")
ERROR = _counter(
    "prediction_error",
    "Errors summed over records: wrong classes, or absolute errors. Its rate over the rate of records learned is the "
    "mean error of any range.",
    "model",
)
LOSS = _gauge("batch_loss", "Mean loss of the last batch, before each step of it.", "model")
GRADIENT_NORM = _gauge("gradient_norm", "Norm of the gradient of the last batch, mean over its steps.", "model")
LEARNING_RATE = _gauge("learning_rate", "Learning rate of the last step.", "model")
OUTPUT_SCALE = _gauge(
    "output_scale",
    "Factor on the outputs of a network: below 1 it had been surer of classes than it was right.",
    "model",
)
NONFINITE = _counter(
    "nonfinite_steps", "Batches with a step not taken because loss or gradient was not finite.", "model"
)
REFUSED = _counter(
    "refused_steps",
    "Batches that lbfgs did not learn from: below 16 records, or the step raised the loss of its own batch.",
    "model",
)
RUN_LEARNED = _gauge("run_records_learned", "Records in the models by now, over all restarts; a crash sets it back.")

# Quality: prequential, predicted before learned.
SCORE = _gauge(
    "score", "Scores of a model, cumulative or fading.", "model", "score", "window", label_sets_max=LABEL_SETS_MAX
)
BASELINE = _gauge(
    "baseline_score",
    "The same scores for predictions that need no model.",
    *("baseline", "score", "window"),
    label_sets_max=LABEL_SETS_MAX,
)

# Drift: has the world moved.
DETECTIONS = _counter(
    "drift_detections",
    "Claims of a detector that a mean changed; model is empty for signals of the input.",
    *("signal", "model", "direction"),
    label_sets_max=LABEL_SETS_MAX,
)
DRIFT_SCORE = _gauge(
    "drift_score",
    "Distance from the reference, in the unit of the signal; model and feature are empty where it has none.",
    *("signal", "model", "feature"),
    label_sets_max=LABEL_SETS_MAX,
)
DRIFT_THRESHOLD = _gauge(
    "drift_threshold",
    "Where the distance becomes a detection.",
    *("signal", "model", "feature"),
    label_sets_max=LABEL_SETS_MAX,
)
LAST_DETECTION = _gauge(
    "drift_last_detection_timestamp_seconds", "When a signal last fired.", "signal", label_sets_max=LABEL_SETS_MAX
)

MISSING_RATIO = _gauge(
    "feature_missing_ratio",
    "Share of recent records in which an optional number was absent.",
    "feature",
    label_sets_max=LABEL_SETS_MAX,
)
UNSEEN_RATIO = _gauge(
    "feature_unseen_ratio",
    "Share of recent records outside what the reference holds: out of range, or a new category.",
    "feature",
    label_sets_max=LABEL_SETS_MAX,
)

# Drift inside the networks: the normalisation layers. Known once a model has learned its first batch.
NORM_DISTANCE = _gauge(
    "norm_distance",
    "How far recent activations are from the remembered ones, mean over channels of squared standard deviations.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
NORM_USUAL = _gauge(
    "norm_usual_distance",
    "What that distance usually is; only of layers with two memories.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
NORM_FAST_SHARE = _gauge(
    "norm_fast_share_ratio",
    "Share of the fast memory in what normalises; only of layers with two memories.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
NORM_SHIFT = _gauge(
    "norm_shift",
    "Shift d of the last batch of m records times sqrt(m), root mean square over channels: about 1 at rest.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
NORM_SCALE = _gauge(
    "norm_scale",
    "Standard deviation r of the last batch over the remembered one, geometric mean over channels: about 1 at rest.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
NORM_CLIPPED = _gauge(
    "norm_clipped_ratio",
    "Share of the channels that the limits of the layer cut in the last batch.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)

# Plasticity: are the networks still able to learn. Known after 1,024 records, measured anew every 50,000.
WEIGHT_RATIO = _gauge(
    "weight_norm_ratio",
    "Length of the weights over what it was at the start: above 1.5 with a norm the rate is in fact lower.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
UPDATE_RATIO = _gauge(
    "update_ratio",
    "Length of one step over that of the weights; usual is 0.003 to 0.02, a warning a third of its first level.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
STABLE_RANK = _gauge(
    "weight_stable_rank",
    "Directions that carry the weights; half of its first level is a warning.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
DEAD_RATIO = _gauge(
    "units_dead_ratio",
    "Share of the units that answered none of about a thousand records.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
DORMANT_RATIO = _gauge(
    "units_dormant_ratio",
    "Share of the units with at most 2.5 % of the mean activity of their layer, dead ones among them.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
EFFECTIVE_RANK = _gauge(
    "activation_effective_rank",
    "Directions that activations use, of at most 128 units; measured every 100,000 records.",
    *("model", "layer"),
    label_sets_max=LABEL_SETS_MAX,
)
FRESH_MARGIN = _gauge(
    "race_fresh_margin_ratio",
    "Share of a model's loss that a new network saved at the end of the last race; above 0: it learns worse than that.",
    "model",
)

REACTIONS = _counter(
    "reactions",
    "What was done about worse errors of a model; arm is the one that serves from then on.",
    *("model", "event", "arm"),
)
LAST_REACTION = _gauge("reaction_last_timestamp_seconds", "When each of these was last done.", *("model", "event"))
EVENTS = _counter("drift_events", "Alarms and reactions told to events.file or events.topic, by outcome.", "outcome")
RACE_ACTIVE = _gauge("race_active", "1 while challengers of a model race it.", "model")

# Checkpoints: how much a crash would cost.
CHECKPOINTS = _counter("checkpoints", "Attempts to save, by outcome.", "outcome")
CHECKPOINT_SECONDS = _histogram(
    "checkpoint_seconds",
    "From the copy of the state to its name on disk.",
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0),
)
CHECKPOINT_BYTES = _gauge("checkpoint_bytes", "Size of the last checkpoint.")
CHECKPOINT_STEP = _gauge("checkpoint_last_step", "Batches covered by the last checkpoint.")
CHECKPOINT_SAVED = _gauge("checkpoint_last_success_timestamp_seconds", "When the last checkpoint was complete.")
CORRUPT = _counter("checkpoints_corrupt", "Checkpoints that did not verify when they were to be loaded.")

# Ourselves.
LIFECYCLE = _gauge("lifecycle_state", "1 for the state the service is in, 0 for the others.", "state")
BUILD = _gauge(
    "build_info", "What is running; always 1.", "version", "python", "torch", "river", "kafka_python", label_sets_max=1
)
CONFIG = _gauge("config_info", "Which configuration is running; always 1.", "run", "config_sha256", label_sets_max=1)
COLLECTOR_SECONDS = _gauge("collector_seconds", "Time the scrape before this one took to collect these series.")
DROPPED = _counter("label_sets_dropped", "Updates left out because their labels were not announced.")

METRICS: tuple[Family, ...] = tuple(value for value in globals().copy().values() if isinstance(value, Family))


def metrics_table() -> str:
    """All of METRICS as a Markdown table, for the documentation.

    >>> print(metrics_table().splitlines()[2])
    | `stream_trainer_records_learned_total` | counter | | Records the models learned from. |
    """
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for family in METRICS:
        labels = " ".join(["", *(f"`{label}`" for label in family.labels)])
        rows.append(f"| `{family.name}` | {family.kind.value} |{labels} | {family.help} |")
    return "\n".join(rows) + "\n"
