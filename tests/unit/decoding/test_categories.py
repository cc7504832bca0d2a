"""Buckets of categories: stable for ever, bounded in memory."""

import numpy as np
import pytest

from stream_trainer.decoding import categories
from stream_trainer.decoding.categories import CategoryBuckets
from stream_trainer.schema import CategoryFeature


def buckets_of(name: str = "carrier", *, buckets: int = 4096, optional: bool = False) -> CategoryBuckets:
    return CategoryBuckets(CategoryFeature(name=name, buckets=buckets, optional=optional))


@pytest.mark.parametrize(
    ("value", "bucket"),
    [("UA", 443), ("", 1104), ("Zürich \U0001f600", 568), (7, 780), (-(10**30), 3084), ("x" * 500, 1192)],
)
def test_a_bucket_never_changes(value, bucket):
    """Golden values: a checkpoint holds weights by bucket, and is loaded by later versions on other machines."""
    assert bucket == buckets_of()[value]


def test_every_feature_hashes_in_its_own_way():
    """Two categories that share a bucket in one feature should not share it in the next as well."""
    values = [f"value {i}" for i in range(100)]
    carrier, route = buckets_of("carrier"), buckets_of("route")

    assert [carrier[v] for v in values] != [route[v] for v in values]


def test_an_integer_is_the_category_of_its_digits():
    carrier = buckets_of()
    assert [carrier[str(i)] for i in range(-50, 50)] == [carrier[i] for i in range(-50, 50)]


def test_absent_has_a_bucket_behind_all_others():
    """And still has it after the cache was emptied."""
    carrier = buckets_of(buckets=8, optional=True)
    assert 8 == carrier[None]
    carrier._forget()
    assert 8 == carrier[None]
    assert {*range(8)} == {carrier[i] for i in range(200)}


def test_buckets_are_filled_evenly():
    """Chi-square of 20,000 values on 64 buckets: 63 degrees of freedom, mean 63, standard deviation 11.2."""
    carrier = buckets_of(buckets=64)
    counts = np.bincount([carrier[i] for i in range(20_000)], minlength=64)

    assert 30 < ((counts - 312.5) ** 2 / 312.5).sum() < 110


def test_a_stream_of_ever_new_values_does_not_grow_the_memory(monkeypatch):
    """An attacker, or a request id declared as a category, sends a new value with every record."""
    monkeypatch.setattr(categories, "CACHE_VALUES_MAX", 50)
    carrier = buckets_of(optional=True)
    before = [carrier[i] for i in range(200)]

    assert len(carrier) <= 50
    assert before == [carrier[i] for i in range(200)]
    size = len(carrier)
    assert 1192 == carrier["x" * 500]
    assert size == len(carrier)
