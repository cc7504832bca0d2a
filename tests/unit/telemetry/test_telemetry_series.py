"""The store behind the metrics: bulk histograms, bounded labels, a scrape that sees a batch whole."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as PerValueHistogram
from prometheus_client.parser import text_string_to_metric_families

from stream_trainer.telemetry.series import Family, Histogram, Kind, SeriesStore

BOUNDS = (0.1, 1.0, 2.5, 10.0)
SEEN = Family(name="seen_total", kind=Kind.COUNTER, help="Seen.", labels=("who",), label_sets_max=2)
LEVEL = Family(name="level", kind=Kind.GAUGE, help="Level.", labels=("topic", "partition"), label_sets_max=3)
LEFT = Family(name="left_total", kind=Kind.COUNTER, help="Left.")
RIGHT = Family(name="right_total", kind=Kind.COUNTER, help="Right.")
DROPPED = Family(name="dropped_total", kind=Kind.COUNTER, help="Dropped.")
SECONDS = Family(name="seconds", kind=Kind.GAUGE, help="Seconds.")


@pytest.fixture
def store():
    return SeriesStore([SEEN, LEVEL, LEFT, RIGHT, DROPPED, SECONDS], dropped=DROPPED, seconds=SECONDS)


@pytest.fixture
def registry(store):
    registry = CollectorRegistry()
    registry.register(store)
    return registry


def client_library_histogram(values):
    """The library's histogram, fed one value at a time: cumulative counts and sum."""
    registry = CollectorRegistry()
    histogram = PerValueHistogram("h", "H.", buckets=BOUNDS, registry=registry)
    for value in values:
        histogram.observe(value)
    bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
    counts = [registry.get_sample_value("h_bucket", {"le": bound}) for bound in bounds]
    return list(zip(bounds, counts, strict=True)), registry.get_sample_value("h_sum")


def test_a_million_values_in_bulk_equal_a_histogram_fed_one_by_one():
    """The bulk path exists for speed alone: no count may differ."""
    values_N = np.random.default_rng(7).lognormal(0.0, 2.0, 1_000_000)
    bulk = Histogram(BOUNDS)
    for part_N in np.array_split(values_N, 4000):  # as it comes: a batch at a time
        bulk.observe_many(part_N)
    counts, total = client_library_histogram(values_N.tolist())

    assert counts == bulk.cumulative()
    assert total == pytest.approx(bulk.sum, rel=1e-9)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5, 9.9, 10.0, 11.0, 1e9]), max_size=30), st.integers(0, 30))
def test_a_value_on_a_bound_belongs_below_it_one_by_one_or_in_bulk(values, cut):
    """`le` means at most: a bucket edge is where two implementations differ first."""
    histogram = Histogram(BOUNDS)
    histogram.observe_many(np.array(values[:cut], dtype=np.float64))
    for value in values[cut:]:
        histogram.observe(value)
    counts, total = client_library_histogram(values)

    assert counts == histogram.cumulative()
    assert total == pytest.approx(histogram.sum)


def test_a_value_that_is_not_finite_leaves_the_histogram_as_it_was():
    """One NaN in the sum would be there until the next restart."""
    histogram = Histogram(BOUNDS)
    histogram.observe(float("nan"))
    histogram.observe_many(np.array([np.inf, np.nan, 1.0]))

    assert histogram.counts.sum() == 1
    assert histogram.sum == 1.0


def test_label_sets_beyond_the_bound_are_dropped_and_counted(store, registry):
    """Labels may come from topics; memory and scrapes must stay small whatever these are called."""
    store.announce(SEEN, [("mlp",)])
    for who in ("mlp", "a", "b", "c", "d", "a"):
        store.add(SEEN, 1, who)

    assert registry.get_sample_value("dropped_total") == 2.0
    assert registry.get_sample_value("seen_total", {"who": "a"}) == 2.0
    assert registry.get_sample_value("seen_total", {"who": "mlp"}) == 1.0  # announced: outside the bound
    assert registry.get_sample_value("seen_total", {"who": "c"}) is None


def test_a_partition_that_is_handed_over_disappears_and_makes_room(store, registry):
    """Its last lag would stand there for ever, and alert; and a rebalance must not use up the bound."""
    for first in range(5):
        store.replace(LEVEL, {("t", str(partition)): 1.0 for partition in range(first, first + 3)})

    assert registry.get_sample_value("level", {"topic": "t", "partition": "6"}) == 1.0
    assert registry.get_sample_value("level", {"topic": "t", "partition": "0"}) is None
    assert registry.get_sample_value("dropped_total") is None


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_a_counter_takes_only_what_keeps_it_rising(store, registry, amount):
    """`rate` reads a fall as a restart, and nothing brings a counter back from NaN."""
    store.add(LEFT, 2.0)
    store.add(LEFT, amount)

    assert registry.get_sample_value("left_total") == 2.0


@pytest.mark.parametrize("value", ['say "hi"', "back\\slash", "two\nlines", "grüße", "surrogate \udcff", "{a=1}", ""])
def test_any_label_value_survives_the_exposition(store, registry, value):
    """A file name is a topic here; one that breaks the text would take the whole scrape with it."""
    store.add(SEEN, 3, value)
    text = generate_latest(registry).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    seen = next(sample for sample in samples if sample.name == "seen_total")

    assert value.encode("utf-8", "backslashreplace").decode() == seen.labels["who"]
    assert seen.value == 3.0


def test_what_is_written_under_one_lock_is_seen_together(store):
    """Conservation (consumed = learned + rejected + skipped) must hold in every scrape, not on average."""
    done = threading.Event()

    def write():
        for _ in range(3000):
            with store.lock:
                store.add(LEFT, 1)
                store.add(RIGHT, 1)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    pairs = []
    while not done.is_set() or not pairs:
        values = {family.name: family.samples[0].value for family in store.collect() if family.samples}
        pairs.append((values.get("left", 0.0), values.get("right", 0.0)))
    writer.join()

    assert [pair for pair in pairs if pair[0] != pair[1]] == []
