"""source.kafka.group: what can be asked for, and what is refused with the reason."""

import pytest

from stream_trainer.errors import ConfigError
from stream_trainer.service.config import check_config
from stream_trainer.service.wiring import assemble

GROUP = {"id": "g", "mode": "sharded", "instance_id": "a"}


def checked(group, *, servers="kafka:9092", directory="state", **kafka):
    run = {
        "name": "shared",
        "source": {"kafka": {"bootstrap_servers": servers, "topic": "t", "group": group, **kafka}},
        "schema": {"features": {"amount": "number"}, "target": {"y": "binary"}},
        "models": {"tree": {"river": {"estimator": "river.tree.HoeffdingTreeClassifier"}}},
        "telemetry": None,
    }
    return check_config(
        run | ({"checkpoint": {"directory": directory, "trusted": True}} if directory else {}), "run.yaml"
    )


def test_a_group_says_who_is_dead_and_how_long_a_hand_over_may_take():
    """The two bounds whose sum is how long a partition can be without an owner."""
    group = checked(GROUP).source.kafka.group

    assert (10.0, 10.0) == (group.session_timeout_s, group.hand_over_s_max)


@pytest.mark.parametrize(
    ("group", "options", "refusal"),
    [
        ({"id": "g", "mode": "sharded"}, {}, "instance_id is missing"),
        ({"id": "g", "mode": "standby", "instance_id": "a"}, {}, "belongs to mode sharded"),
        ({**GROUP, "mode": "both"}, {}, "mode"),
        ({**GROUP, "session_timeout_s": 0}, {}, "must be more than 0"),
        ({**GROUP, "hand_over_s_max": -1}, {}, "must be more than 0"),
        (GROUP, {"group_id": "h"}, "progress is shown under group.id"),
        (GROUP, {"directory": None}, "needs checkpoint.directory"),
        (GROUP, {"servers": "embedded"}, "serves this process alone"),
        (GROUP, {"directory": "memory://run"}, "file system that all its members share"),
        (GROUP, {"client": {"session_timeout_ms": 1}}, "set source.kafka.group.session_timeout_s"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(group, options, refusal):
    """Before anything is started."""
    with pytest.raises(ConfigError, match=refusal):
        checked(group, **options)


def test_a_member_has_no_end_of_its_own():
    """Where would one of several stop?"""
    with pytest.raises(ConfigError, match="--until-end"), assemble(checked(GROUP), until_end=True):
        pass
