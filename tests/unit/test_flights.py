"""The demo's stream: every labelled flight of the year, in the order in which it was scheduled."""

import pytest

from stream_trainer.demo.flights import N_FLIGHTS, flights

pytest.importorskip("confluent_kafka", reason="pip install 'stream-trainer[demo]'")


def test_the_year_is_whole_and_in_order():
    """The file itself runs January, October, November, ...: a model would see winter before summer."""
    events = list(flights())

    assert N_FLIGHTS == len(events) == 327_346
    scheduled = [event["scheduled"] for event in events]
    assert scheduled == sorted(scheduled)
    late = sum(event["late"] for event in events) / len(events)
    assert late == pytest.approx(0.237, abs=0.001)


def test_nothing_from_after_the_departure_is_told():
    """A feature that is known only at arrival would make every score a lie."""
    (event,) = flights(1)

    assert not {"dep_delay", "dep_time", "arr_time", "arr_delay", "air_time"} & event.keys()
