"""Arrays as base64 in JSON: the same numbers as nested lists, and exact words for every string that is none."""

import base64
import json

import numpy as np
import pytest
from decoding_helpers import assert_accounts_for_all, decode
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.decoding import JsonDecoder
from stream_trainer.schema import ArrayBytes, ArrayFeature, Schema, Target
from stream_trainer.testing.mutate import mutate_record
from stream_trainer.types import RejectReason


def coded(array, dtype) -> str:
    return base64.b64encode(np.asarray(array).astype(dtype).tobytes()).decode()


def record(image) -> bytes:
    return json.dumps({"image": image, "late": True}).encode()


def decoder(bytes: ArrayBytes | None) -> JsonDecoder:
    image = ArrayFeature(name="image", shape=(2, 3), bytes=bytes)
    return JsonDecoder(Schema(arrays=(image,), target=Target.binary("late")))


@pytest.mark.parametrize(
    ("bytes", "dtype", "image"),
    [
        (ArrayBytes.UINT8, "u1", [[0, 1, 2], [127, 128, 255]]),
        (ArrayBytes.FLOAT32, "<f4", [[-1.5, 0, 3e38], [1e-45, 2, 3]]),
    ],
)
def test_an_array_as_base64_is_the_same_array(bytes, dtype, image):
    """Row by row, low byte first; to the last bit what nested lists of the same numbers give."""
    from_bytes = decode(decoder(bytes), record(coded(image, dtype)), record("bad"))
    from_lists = decode(decoder(None), record(image))

    assert np.float32 == from_bytes.batch.arrays["image"].dtype
    np.testing.assert_array_equal(from_lists.batch.arrays["image"], from_bytes.batch.arrays["image"])
    assert [1] == [reject.offset for reject in from_bytes.rejects]


def test_a_string_that_is_not_the_declared_bytes_is_told_what_it_lacks():
    good = coded([[1, 2, 3], [4, 5, 6]], "u1")
    decoded = decode(
        decoder(ArrayBytes.UINT8),
        record(good),
        record([[1, 2, 3], [4, 5, 6]]),
        record(good[:-1]),
        record(good[:-1] + "-"),
        record(good[:-1] + "\n"),
        record("=" + good[1:]),
        record(good[:-1] + "="),
        record("========"),
        record(coded(range(7), "u1")),
        record(None),
        b'{"late": true}',
    )
    expected = "image: expected base64 of 6 bytes, 8 characters"

    assert [[[1, 2, 3], [4, 5, 6]]] == decoded.batch.arrays["image"].tolist()
    assert [
        f"{expected}, came an array of 2",
        f"{expected}, came the string 'AQIDBAU'",
        f"{expected}, came '-' as character 7",
        f"{expected}, came '\\n' as character 7",
        f"{expected}, came '=' as character 0",
        f"{expected} with 0 '=' at the end, came 1",
        f"{expected} with 0 '=' at the end, came 8",
        f"{expected}, came the string 'AAECAwQFBg=='",
        "image: expected a value, came null",
        "image: expected a value, came nothing",
    ] == [reject.detail for reject in decoded.rejects]


def test_bytes_that_are_no_finite_number_are_rejected_with_their_index():
    """JSON cannot write them, bytes can; let through, one would be in every gradient of its batch."""
    good = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    values = [good, [[1.0, 2.0, np.nan], [4.0, np.inf, 6.0]], good, [[1.0, 2.0, 3.0], [-np.inf, 5.0, 6.0]]]
    decoded = decode(decoder(ArrayBytes.FLOAT32), *(record(coded(value, "<f4")) for value in values))

    assert [good, good] == decoded.batch.arrays["image"].tolist()
    assert [
        (RejectReason.NOT_FINITE, "image[0][2]: expected a finite number, came NaN"),
        (RejectReason.NOT_FINITE, "image[1][0]: expected a finite number, came Infinity"),
    ] == [(reject.reason, reject.detail) for reject in decoded.rejects]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.text(alphabet="AQz9+/=-_ \né", min_size=7, max_size=9))
def test_whatever_string_is_refused_the_reason_is_found(text):
    """Two readers, one fast and one that explains: where they disagreed, the reason would be a wrong one."""
    decoded = decode(decoder(ArrayBytes.UINT8), record(text))
    try:
        is_good = len(base64.b64decode(text, validate=True)) == 6
    except ValueError:
        is_good = False

    assert is_good == (len(decoded.batch) == 1)
    assert all(reject.reason is RejectReason.WRONG_TYPE for reject in decoded.rejects)


@pytest.mark.parametrize("bytes", ArrayBytes)
def test_no_mutated_bytes_stop_the_decoder_or_get_lost(bytes):
    """Flipped bits, halves, splices, strings of other fields: a number that float32 cannot hold never comes through."""
    rng = np.random.default_rng(20_261)
    reasons, n_accepted = set(), 0
    for _ in range(40):
        images = rng.integers(0, 256, size=(50, 6 * bytes.size)).astype("u1")
        images[rng.random(50) < 0.2] |= 0x7F  # of float32: infinities and NaN
        values = [record(base64.b64encode(image).decode()) for image in images]
        values[10:] = [mutate_record(rng, value) for value in values[10:]]
        decoded = decode(decoder(bytes), *values)
        assert_accounts_for_all(decoded, 50)
        reasons |= {reject.reason for reject in decoded.rejects}
        n_accepted += len(decoded.batch)

    assert n_accepted > 100, "the mutations are too harsh to test what is accepted"
    assert {RejectReason.WRONG_TYPE, RejectReason.MISSING_FEATURE, RejectReason.BAD_SYNTAX} <= reasons
    assert (bytes is ArrayBytes.FLOAT32) == (RejectReason.NOT_FINITE in reasons)
