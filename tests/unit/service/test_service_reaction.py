"""From the configuration to a race, and from an event to the line that people read."""

import pytest

from stream_trainer.errors import ConfigError
from stream_trainer.models import state_sha256
from stream_trainer.service.config import check_config
from stream_trainer.service.observers import describe_reaction
from stream_trainer.service.wiring import build_trainer
from stream_trainer.testing.fakes import ManualClock
from stream_trainer.types import RaceArm, ReactionEvent, ReactionKind


def config(reaction):
    return check_config(
        {
            "name": "r",
            "source": {"file": {"path": "-"}},
            "schema": {"features": {"x": "number"}, "target": {"y": "binary"}},
            "models": {
                "mlp": {"torch": {"hidden": [4]}},
                "tree": {"river": {"estimator": "river.tree.HoeffdingTreeClassifier"}},
            },
            "drift": {"reaction": reaction},
        },
        "here",
    )


def trainer(reaction):
    chosen = config(reaction)
    return build_trainer(chosen, chosen.schema_.build(), ManualClock())


@pytest.mark.parametrize("reaction", ["none", "alert"])
def test_a_policy_that_leaves_the_models_alone_has_no_part_in_the_snapshot(reaction):
    """Checkpoints from before there were reactions can be loaded."""
    assert {"models/mlp", "models/tree", "scores", "drift"} == trainer(reaction).parts().keys()


@pytest.mark.parametrize("reaction", ["boost", "race", {"race": {"records": 2048}}])
def test_a_policy_that_acts_remembers(reaction):
    """Its part is captured and restored with the others."""
    built, twin = trainer(reaction), trainer(reaction)
    twin.reaction.restore(built.reaction.capture())

    assert {"mlp": False, "tree": False} == twin.reaction.racing()
    assert state_sha256(built.reaction.capture()) == state_sha256(twin.reaction.capture())


def test_a_wrong_policy_names_the_right_ones():
    """With its path."""
    with pytest.raises(ConfigError, match=r"drift.*known: none, alert, boost, race"):
        config("reset")


def test_the_log_says_who_won_and_by_how_much():
    """Whoever wonders why the scores jumped finds the reason in one line."""
    event = ReactionEvent(
        model="mlp",
        kind=ReactionKind.CONFIRM,
        record=20_512,
        arm=RaceArm.FRESH,
        challenger=RaceArm.FRESH,
        margin=0.213,
        statistic=6.04,
    )

    assert (
        "reaction at record 20,512: confirm, fresh takes the place of mlp "
        "(best challenger fresh: saved 21.3% of the loss, 6.0 standard errors)" == describe_reaction(event)
    )
