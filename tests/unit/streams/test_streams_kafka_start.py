"""Where reading begins: decisions from two maps of offsets, without a broker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_trainer.errors import ConfigError, DataLost
from stream_trainer.streams.kafka_start import LostData, first_positions
from stream_trainer.types import TopicPartition

A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)
BEGINS, ENDS = {A: 3, B: 0}, {A: 9, B: 5}


def first(start, find_time=None):
    return first_positions(start, BEGINS, ENDS, find_time)


def test_each_spelling_of_the_start_means_one_position():
    """A position is the next offset; a time without any later record means the next one written."""
    assert BEGINS == first("earliest")
    assert ENDS == first("latest")
    assert {A: 4, B: 5} == first(0, lambda time_ms: {A: 4, B: None})
    assert {A: 7, B: 0} == first({"orders-0": 7})
    assert {A: 3, B: 5} == first({"orders": {1: 5}})


def test_the_time_asked_for_is_in_milliseconds():
    asked = []
    first("1970-01-01T00:00:02+00:00", lambda time_ms: asked.append(time_ms) or BEGINS)

    assert [2_000] == asked


def test_explicit_offsets_must_exist():
    """A typing error would otherwise learn another part of the stream."""
    with pytest.raises(ConfigError, match=r"start\.orders-0 is 2; its log holds offsets 3 to 9"):
        first({"orders-0": 2})
    with pytest.raises(ConfigError, match="start names orders-2, which its topic does not have"):
        first({"orders-2": 2})


def test_offsets_of_topics_with_a_checkpoint_are_passed_over():
    """`start` stays in the configuration; when a topic is added, only the new one is a first run."""
    assert BEGINS == first({"clicks-0": 99})


@given(offset=st.integers(0, 20), policy=st.sampled_from(["fail", "earliest", "latest"]))
def test_a_position_is_kept_exactly_where_the_log_holds_it(offset, policy):
    """The end itself is held: it is where the next record will be."""
    lost = LostData(policy)
    if 3 <= offset <= 9:
        assert (offset, 0) == (lost.inside_log(A, offset, 3, 9), lost.resets)
    elif policy == "fail":
        with pytest.raises(DataLost, match=f"orders-0: we are at offset {offset}, its log holds offsets 3 to 9"):
            lost.inside_log(A, offset, 3, 9)
    else:
        assert ({"earliest": 3, "latest": 9}[policy], 1) == (lost.inside_log(A, offset, 3, 9), lost.resets)


def test_partitions_that_vanished_are_dropped_only_if_the_policy_allows():
    with pytest.raises(DataLost, match="orders-1: the checkpoint is at offset 4, and the partition no longer exists"):
        LostData("fail").without_vanished({A: 3, B: 4}, [A])

    assert {A: 3} == LostData("latest").without_vanished({A: 3, B: 4}, [A])
    assert {A: 3} == LostData("fail").without_vanished({A: 3}, [A, B])


def test_a_damaged_batch_of_unknown_length_is_never_skipped():
    """Where its end is unknown, any place to go on is a guess; but first the network is given two more chances."""
    lost = LostData("earliest")
    assert [None, None] == [lost.damaged(A, 4, None, "nonsense") for _ in range(2)]

    with pytest.raises(DataLost, match="the batch at offset 4 cannot be read: nonsense, 3 times"):
        lost.damaged(A, 4, None, "nonsense")


def test_only_the_same_batch_three_times_in_a_row_is_damaged_in_the_log():
    """A bad network damages now one batch, now another."""
    lost = LostData("earliest")
    assert [None] * 4 == [lost.damaged(A, offset, 9, "its CRC") for offset in (4, 4, 9, 4)]
    lost.forget_damage()
    assert [None, None, 9] == [lost.damaged(A, 4, 9, "its CRC") for _ in range(3)]
    assert 1 == lost.resets
