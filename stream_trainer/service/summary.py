"""What a run did, as the JSON that `--json` prints last: a contract with scripts and tests."""

import math
from typing import Any

from stream_trainer.evaluation import ModelScores
from stream_trainer.models.digest import state_sha256
from stream_trainer.service.loop import Service

__all__ = ["summarise"]


def summarise(service: Service, *, name: str, seconds: float) -> dict[str, Any]:
    """Counts go on over restarts, `seconds` are of this process. Undefined scores are null.

    `state_sha256` covers everything the model remembers: two runs agree in it only if their models are equal in every
    bit.
    """
    trainer, counts = service.trainer, service.counts
    scores = trainer.prequential.scores()
    baselines = {name: _windows(windows) for name, windows in trainer.prequential.baselines().items()}
    return {
        "name": name,
        "state": service.lifecycle.state.value,
        "records_consumed": counts.consumed,
        "records_learned": counts.learned,
        "records_dead_lettered": counts.dead_lettered,
        "records_skipped": counts.skipped,
        "batches": counts.batches,
        "seconds": round(seconds, 3),
        "next_offsets": {str(partition): offset for partition, offset in sorted(service.positions.items())},
        "alarms": trainer.drift.alarms,
        "models": {
            model: {
                "scores": _plain(scores[model].cumulative),
                "scores_fading": _plain(scores[model].fading),
                "baselines": {baseline: windows["cumulative"] for baseline, windows in baselines.items()},
                "state_sha256": state_sha256(trainer.models[model].capture()),
            }
            for model in trainer.models
        },
    }


def _windows(windows: ModelScores) -> dict[str, dict[str, float | None]]:
    return {"cumulative": _plain(windows.cumulative), "fading": _plain(windows.fading)}


def _plain(scores: Any) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}
