"""Broken records by the thousand: never an exception, every record accounted for, nothing infinite let through."""

import json

import numpy as np
import pytest
from decoding_helpers import (
    SCHEMA,
    SCHEMA_WITH_ARRAY,
    assert_accounts_for_all,
    assert_same,
    chunk_of,
    decode,
    raw_batch,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.contracts import Decoder
from stream_trainer.decoding import DECODERS, build_decoder
from stream_trainer.errors import ConfigError
from stream_trainer.testing.mutate import mutate_record
from stream_trainer.types import RejectReason

HEADER = ["delayed", "distance", "wind", "carrier", "route"]


def json_record(rng: np.random.Generator) -> bytes:
    record = {
        "distance": rng.normal(),
        "wind": None if rng.random() < 0.2 else int(rng.integers(-5, 5)),
        "carrier": str(rng.choice(["UA", "AA", "ü", "😀"])),
        "route": int(rng.integers(1000)),
        "image": rng.integers(0, 255, size=(2, 3)).tolist(),
        "delayed": bool(rng.random() < 0.5),
        "note": "not declared",
    }
    return json.dumps(record, ensure_ascii=bool(rng.random() < 0.5)).encode()


def csv_record(rng: np.random.Generator) -> bytes:
    return f'{rng.integers(2)},{rng.normal()},{rng.integers(9)},"{rng.choice(["UA", "ü"])}",{rng.integers(99)}'.encode()


CASES = {
    "json": (json_record, lambda: build_decoder("json", SCHEMA_WITH_ARRAY)),
    "csv": (csv_record, lambda: build_decoder("csv", SCHEMA, header=HEADER)),
}


@pytest.mark.parametrize("format", sorted(CASES))
def test_no_mutated_record_stops_the_decoder_or_gets_lost(format):
    make, build = CASES[format]
    rng = np.random.default_rng(20_261)
    decoder: Decoder = build()
    reasons = set()
    n_accepted = 0
    for _ in range(50):
        values = [mutate_record(rng, make(rng)) if rng.random() < 0.9 else None for _ in range(50)]
        decoded = decoder.decode(raw_batch(chunk_of(values[:20]), chunk_of(values[20:], partition=1)))
        assert_accounts_for_all(decoded, 50)
        reasons |= {reject.reason for reject in decoded.rejects}
        n_accepted += len(decoded.batch)

    assert n_accepted > 100, "the mutations are too harsh to test what is accepted"
    assert {*RejectReason} - reasons <= {RejectReason.OVERSIZE, RejectReason.NOT_FINITE}


def test_a_seed_names_its_mutations():
    """So that a failure of the long run can be looked at again."""
    value = json_record(np.random.default_rng(1))
    first, second = ([mutate_record(rng, value) for _ in range(50)] for rng in map(np.random.default_rng, (7, 7)))

    assert first == second
    assert len({*first}) > 40


@pytest.mark.parametrize("format", sorted(CASES))
@pytest.mark.parametrize("seed", range(3))
def test_the_verdict_on_a_record_does_not_depend_on_its_neighbours(format, seed):
    """After a restart the same records may come in other batches, and must be learned or rejected just the same."""
    make, build = CASES[format]
    rng = np.random.default_rng(seed)
    values = [mutate_record(rng, make(rng)) if rng.random() < 0.5 else make(rng) for _ in range(60)]
    chunk = chunk_of(values)
    left, right = chunk.split(int(rng.integers(1, 60)))

    decoder = build()
    whole = decoder.decode(raw_batch(chunk))
    parts = [decoder.decode(raw_batch(part)) for part in (left, right)]

    assert whole.rejects == parts[0].rejects + parts[1].rejects
    for name in ("x_NF", "category_NC", "y_N", "timestamp_ms_N"):
        np.testing.assert_array_equal(
            getattr(whole.batch, name), np.concatenate([getattr(part.batch, name) for part in parts]), err_msg=name
        )
    assert_same(whole, decoder.decode(raw_batch(left, right)))


@pytest.mark.parametrize("format", sorted(CASES))
@settings(max_examples=150, deadline=None, derandomize=True)
@given(values=st.lists(st.one_of(st.none(), st.binary(max_size=60), st.text(max_size=40).map(str.encode)), max_size=6))
def test_no_bytes_at_all_stop_the_decoder(format, values):
    assert_accounts_for_all(decode(CASES[format][1](), *values), len(values))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
names = st.sampled_from(["distance", "wind", "carrier", "route", "image", "delayed", "other"])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(record=st.dictionaries(names, json_values, max_size=7))
def test_no_json_object_stops_the_decoder(record):
    value = json.dumps(record).encode()
    decoded = decode(build_decoder("json", SCHEMA_WITH_ARRAY), value)

    assert_accounts_for_all(decoded, 1)


def test_an_unknown_format_is_answered_with_the_known_ones():
    assert {*CASES} == {*DECODERS}
    with pytest.raises(ConfigError, match=r"format is 'avro'; known formats: csv, json\."):
        build_decoder("avro", SCHEMA)
