"""JSON records: what is taken, what is refused and with which words."""

import json

import numpy as np
import pytest
from decoding_helpers import SCHEMA, SCHEMA_WITH_ARRAY, assert_accounts_for_all, chunk_of, decode, raw_batch

from stream_trainer.decoding import JsonDecoder
from stream_trainer.errors import ConfigError
from stream_trainer.schema import NumberFeature, Schema, Target, TargetKind
from stream_trainer.types import RejectReason, TopicPartition

GOOD = {"distance": 1.5, "wind": -2, "carrier": "UA", "route": 7, "delayed": 1}


def record(**changes: object) -> bytes:
    """The good record with some fields replaced; bytes are taken as JSON text, Ellipsis removes the field."""
    fields = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    texts = (f"{json.dumps(k)}: {v.decode() if isinstance(v, bytes) else json.dumps(v)}" for k, v in fields.items())
    return ("{" + ", ".join(texts) + "}").encode()


def verdict(value: bytes, schema: Schema = SCHEMA) -> tuple[RejectReason, str]:
    decoded = decode(JsonDecoder(schema), value)
    assert_accounts_for_all(decoded, 1)
    assert 1 == len(decoded.rejects)
    return decoded.rejects[0].reason, decoded.rejects[0].detail


def test_one_record_becomes_one_row_of_each_column():
    batch = decode(JsonDecoder(SCHEMA), record()).batch

    assert [[1.5, -2.0]] == batch.x_NF.tolist()
    assert [[False, False]] == batch.missing_NF.tolist()
    assert (1, 2) == batch.category_NC.shape
    assert [1] == batch.y_N.tolist()
    assert [1_000] == batch.timestamp_ms_N.tolist()
    assert [np.float32, np.int64, np.int64, np.int64] == [
        column.dtype for column in (batch.x_NF, batch.category_NC, batch.y_N, batch.timestamp_ms_N)
    ]


@pytest.mark.parametrize("absent", [None, ...])
def test_an_absent_optional_feature_is_told_apart_from_zero(absent):
    """A number carries a flag beside it, a category has a bucket behind all others."""
    batch = decode(JsonDecoder(SCHEMA), record(wind=absent, route=absent)).batch

    assert [[1.5, 0.0]] == batch.x_NF.tolist()
    assert [[False, True]] == batch.missing_NF.tolist()
    assert 8 == batch.category_NC[0, 1]


def test_without_optional_numbers_there_are_no_flags():
    schema = Schema(numbers=(NumberFeature(name="distance"),), target=Target.binary("delayed"))

    assert decode(JsonDecoder(schema), record()).batch.missing_NF is None


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (record(distance="far"), RejectReason.WRONG_TYPE, "distance: expected a number, came the string 'far'"),
        (record(distance=True), RejectReason.WRONG_TYPE, "distance: expected a number, came true"),
        (record(distance=[1]), RejectReason.WRONG_TYPE, "distance: expected a number, came an array of 1"),
        (record(wind={}), RejectReason.WRONG_TYPE, "wind: expected a number, came an object"),
        (record(distance=None), RejectReason.MISSING_FEATURE, "distance: expected a value, came null"),
        (record(carrier=...), RejectReason.MISSING_FEATURE, "carrier: expected a value, came nothing"),
        (record(carrier=1.5), RejectReason.WRONG_TYPE, "carrier: expected a string or an integer, came the number 1.5"),
        (record(route=False), RejectReason.WRONG_TYPE, "route: expected a string or an integer, came false"),
        (record(delayed=...), RejectReason.MISSING_TARGET, "delayed: expected a value, came nothing"),
        (record(delayed=None), RejectReason.MISSING_TARGET, "delayed: expected a value, came null"),
        (record(delayed=1.0), RejectReason.WRONG_TYPE, "delayed: expected true, false, 1 or 0, came the number 1.0"),
        (record(delayed=2), RejectReason.UNKNOWN_CLASS, "delayed: expected one of the classes 0, 1; came the number 2"),
        (
            record(delayed="no\x1b[31m\n"),
            RejectReason.UNKNOWN_CLASS,
            "delayed: expected one of the classes 0, 1; came the string 'no\\x1b[31m\\n'",
        ),
        (
            record(distance=b"NaN"),
            RejectReason.NOT_FINITE,
            "distance: expected a finite number, came NaN or Infinity",
        ),
        (
            record(distance=b"-Infinity"),
            RejectReason.NOT_FINITE,
            "distance: expected a finite number, came NaN or Infinity",
        ),
        (
            record(distance=1e39),
            RejectReason.TOO_LARGE_NUMBER,
            "distance: expected a number within ±3.4e38, came the number 1e+39",
        ),
        (
            record(wind=b"-1e999"),
            RejectReason.TOO_LARGE_NUMBER,
            "wind: expected a number within ±3.4e38, came the number -inf",
        ),
        (
            record(distance=10**300),
            RejectReason.TOO_LARGE_NUMBER,
            "distance: expected a number within ±3.4e38, came the number 1e+300",
        ),
        (
            record(distance=b"9" * 5000),
            RejectReason.TOO_LARGE_NUMBER,
            "distance: expected a number within ±3.4e38, came the number inf",
        ),
        (b"", RejectReason.BAD_SYNTAX, "expected one JSON object: 'Input data was truncated'"),
        (b"\xef\xbb\xbf{}", RejectReason.BAD_SYNTAX,
         "expected one JSON object: 'JSON is malformed: invalid character (byte 0)'"),
        (record()[:-1], RejectReason.BAD_SYNTAX, "expected one JSON object: 'Input data was truncated'"),
        (record() + b"}", RejectReason.BAD_SYNTAX,
         "expected one JSON object: 'JSON is malformed: trailing characters (byte 73)'"),
        (b"[]", RejectReason.WRONG_TYPE, "the record: expected an object, came an array of 0"),
        (b"17", RejectReason.WRONG_TYPE, "the record: expected an object, came the number 17"),
        (record().replace(b"UA", b"U\xff"), RejectReason.BAD_UTF8, "byte 43 (0xff) is not UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_record_is_rejected_with_field_expectation_and_value(value, reason, detail):
    """The reason becomes a metric label, the detail is what the producer's owner gets to read."""
    assert (reason, detail) == verdict(value)


@pytest.mark.parametrize(
    "value",
    [
        record(carrier=b'"\\ud800"'),
        record(other=b"NaN"),
        b"[" * 100_000,
        b'"' + b'\\"[' * 300_000,
        b"\x00",
        record().decode().encode("utf-16-be"),
    ],
    ids=["lone surrogate", "NaN elsewhere", "nested", "open string", "zero byte", "utf-16"],
)
def test_what_no_parser_agrees_about_is_bad_syntax(value):
    assert RejectReason.BAD_SYNTAX is verdict(value)[0]


def nested(levels: int) -> bytes:
    """The good record, `levels` deep in a field that is not declared; beside it brackets that do not count."""
    return record(text="[" * 300, pairs=[[i] for i in range(300)], other=b"[" * (levels - 1) + b"]" * (levels - 1))


def below(frames: int, call):
    return call() if frames == 0 else below(frames - 1, call)


def test_nesting_has_a_limit_of_our_own():
    """A parser's limit is what is left of the stack: a replay below other callers would learn other records."""
    decoder = JsonDecoder(SCHEMA)
    for frames in (0, 400):
        decoded = below(frames, lambda: decode(decoder, nested(200), nested(201)))
        assert 1 == len(decoded.batch)
        assert [(1, "expected at most 200 levels of nesting, came more")] == [
            (reject.offset, reject.detail) for reject in decoded.rejects
        ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"3.4028234663852886e38", 3.4028234663852886e38),
        (b"1e-45", 1.401298464324817e-45),
        (b"1e-400", 0.0),
        (b"12345678901234567890123", 1.2345679e22),
        (b"-0", 0.0),
    ],
)
def test_every_number_that_float32_can_hold_is_taken(text, expected):
    """Subnormal numbers are exact enough to learn from; they are not an error."""
    batch = decode(JsonDecoder(SCHEMA), record(distance=text)).batch

    assert np.float32(expected) == batch.x_NF[0, 0]


@pytest.mark.parametrize(("label", "expected"), [(True, 1), (False, 0), (1, 1), (0, 0), ("1", 1), ("0", 0)])
def test_binary_takes_truth_values_and_both_class_names(label, expected):
    """`binary` is the two classes "0" and "1", and a class may be written as a string or as an integer."""
    assert [expected] == decode(JsonDecoder(SCHEMA), record(delayed=label)).batch.y_N.tolist()


def test_classes_are_matched_by_name_and_never_by_truth_value():
    """To Python true equals 1; a record that says true for class "1" of a rating is a mistake all the same."""
    rating = Target(name="stars", kind=TargetKind.CLASSES, classes=("1", "2", "best"))
    schema = Schema(numbers=(NumberFeature(name="x"),), target=rating)
    values = [b'{"x": 0, "stars": %s}' % label for label in (b"1", b'"2"', b'"best"', b"true", b"3", b'"01"')]
    decoded = decode(JsonDecoder(schema), *values)

    assert [0, 1, 2] == decoded.batch.y_N.tolist()
    assert [RejectReason.WRONG_TYPE, RejectReason.UNKNOWN_CLASS, RejectReason.UNKNOWN_CLASS] == [
        reject.reason for reject in decoded.rejects
    ]


def test_a_number_target_is_float32_and_refuses_what_float32_cannot_hold():
    schema = Schema(numbers=(NumberFeature(name="x"),), target=Target(name="y", kind=TargetKind.NUMBER))
    decoded = decode(JsonDecoder(schema), b'{"x": 0, "y": 2}', b'{"x": 0, "y": -1e39}', b'{"x": 0, "y": true}')

    assert np.float32 == decoded.batch.y_N.dtype
    assert [2.0] == decoded.batch.y_N.tolist()
    assert [
        (RejectReason.TOO_LARGE_NUMBER, "y: expected a number within ±3.4e38, came the number -1e+39"),
        (RejectReason.WRONG_TYPE, "y: expected a number, came true"),
    ] == [(reject.reason, reject.detail) for reject in decoded.rejects]


def test_an_array_has_exactly_the_declared_shape():
    decoded = decode(
        JsonDecoder(SCHEMA_WITH_ARRAY),
        record(image=[[1, 2, 3], [4, 5, 6]]),
        record(image=[[1, 2, 3]]),
        record(image=[[1, 2, 3], [4, 5]]),
        record(image=[[1, 2, 3], [4, 5, None]]),
        record(image=[[1, 2, 3], [4, 5, 1e39]]),
        record(image=7),
        record(),
    )

    assert [[[1, 2, 3], [4, 5, 6]]] == decoded.batch.arrays["image"].tolist()
    assert [
        "image: expected an array of 2, came an array of 1",
        "image[1]: expected an array of 3, came an array of 2",
        "image[1][2]: expected a number, came null",
        "image: expected a number within ±3.4e38, came the number 1e+39",
        "image: expected an array of 2, came the number 7",
        "image: expected a value, came nothing",
    ] == [reject.detail for reject in decoded.rejects]


def test_of_a_key_that_comes_twice_the_last_counts():
    twice = record().removesuffix(b"}") + b', "distance": 9}'

    assert 9 == decode(JsonDecoder(SCHEMA), twice).batch.x_NF[0, 0]


def test_undeclared_fields_are_ignored_and_not_even_checked_for_utf8():
    value = record().removesuffix(b"}") + b', "\xff": {"deep": [1, "\xfe"]}}'

    assert 1 == len(decode(JsonDecoder(SCHEMA), value).batch)


def test_a_record_cannot_break_out_of_its_frame():
    """Joined into one array for speed, these three would parse as three good records, and two of them are halves."""
    halves = [record() + b"," + record()[:20], record()[20:], record()]
    decoded = decode(JsonDecoder(SCHEMA), *halves)

    assert [0, 1] == [reject.offset for reject in decoded.rejects]
    assert 1 == len(decoded.batch)


def test_a_record_that_is_too_long_is_rejected_unread():
    value = record()
    assert 1 == len(decode(JsonDecoder(SCHEMA, record_bytes_max=len(value)), value).batch)

    rejects = decode(JsonDecoder(SCHEMA, record_bytes_max=len(value) - 1), value).rejects
    assert (RejectReason.OVERSIZE, "expected at most 71 bytes, came 72") == (rejects[0].reason, rejects[0].detail)


def test_tombstones_are_counted_and_rejects_can_be_found_again():
    """Two partitions, out of order, with something of everything."""
    raw = raw_batch(
        chunk_of([record(distance=1), None, b"x"], partition=3, first_offset=70),
        chunk_of([], partition=1),
        chunk_of([record(distance=2), record(distance=1e39), record(distance=3)], partition=0, first_offset=5),
    )
    decoded = JsonDecoder(SCHEMA).decode(raw)

    assert [1, 2, 3] == decoded.batch.x_NF[:, 0].tolist()
    assert [1_070, 1_005, 1_007] == decoded.batch.timestamp_ms_N.tolist()
    assert 1 == decoded.n_tombstones
    syntax, large = decoded.rejects
    assert (TopicPartition("flights", 3), 72, 1_072, b"key 72", b"x", (("trace", b"2"),)) == (
        syntax.partition, syntax.offset, syntax.timestamp_ms, syntax.key, syntax.value, syntax.headers
    )  # fmt: skip
    assert (TopicPartition("flights", 0), 6, b"key 6") == (large.partition, large.offset, large.key)


@pytest.mark.parametrize("values", [[], [None, None], [b"x", b""]], ids=["nothing", "tombstones", "rejects"])
def test_a_batch_may_end_up_empty_and_keeps_its_widths(values):
    batch = decode(JsonDecoder(SCHEMA_WITH_ARRAY), *values).batch

    assert 0 == len(batch)
    assert [(0, 2), (0, 2), (0, 2), (0, 2, 3)] == [
        array.shape for array in (batch.x_NF, batch.missing_NF, batch.category_NC, batch.arrays["image"])
    ]
    assert [np.float32, np.int64, np.int64] == [a.dtype for a in (batch.x_NF, batch.category_NC, batch.y_N)]


def test_a_record_has_the_same_fate_alone_and_in_company():
    """Good records beside bad ones are the same good records."""
    values = [record(distance=i, route=i % 3, wind=None if i % 4 else i) for i in range(20)]
    values[3], values[11], values[12] = b"x", record(distance=1e39), record(delayed="?")
    together = decode(JsonDecoder(SCHEMA), *values)
    alone = [decode(JsonDecoder(SCHEMA), value) for value in values]

    np.testing.assert_array_equal(np.concatenate([one.batch.x_NF for one in alone]), together.batch.x_NF)
    np.testing.assert_array_equal(np.concatenate([one.batch.category_NC for one in alone]), together.batch.category_NC)
    assert [r.detail for one in alone for r in one.rejects] == [r.detail for r in together.rejects]


def test_a_field_name_may_be_any_key_but_not_one_that_needs_escapes():
    schema = Schema(numbers=(NumberFeature(name="wind speed/°"),), target=Target.binary("class"))
    assert [[3.0]] == decode(JsonDecoder(schema), '{"wind speed/°": 3, "class": 0}'.encode()).batch.x_NF.tolist()

    with pytest.raises(ConfigError, match="a field name cannot be a JSON key"):
        JsonDecoder(Schema(numbers=(NumberFeature(name='a"b'),), target=Target.binary("y")))


def test_the_size_limit_must_let_something_through():
    with pytest.raises(ConfigError, match=r"record_bytes_max is 0; it must be at least 1\."):
        JsonDecoder(SCHEMA, record_bytes_max=0)
