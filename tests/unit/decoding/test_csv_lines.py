"""CSV records: the same verdicts as JSON, as far as text can tell."""

import json
import re

import numpy as np
import pytest
from decoding_helpers import SCHEMA, SCHEMA_WITH_ARRAY, assert_accounts_for_all, decode
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.decoding import CsvDecoder, JsonDecoder
from stream_trainer.errors import ConfigError
from stream_trainer.schema import NumberFeature, Schema, Target, TargetKind
from stream_trainer.types import RejectReason

HEADER = ["id", "delayed", "distance", "wind", "carrier", "route"]


def csv_decoder(**options: object) -> CsvDecoder:
    return CsvDecoder(SCHEMA, HEADER, **options)


def test_text_and_json_of_the_same_record_give_the_same_row():
    """A model trained from a file goes on from the topic: not one bucket may differ."""
    from_csv = decode(csv_decoder(), b"1,1,1.5,-2e0,UA,7", b"2,false,0,,AA,").batch
    from_json = decode(
        JsonDecoder(SCHEMA),
        json.dumps({"delayed": 1, "distance": 1.5, "wind": -2, "carrier": "UA", "route": 7}).encode(),
        json.dumps({"delayed": False, "distance": 0, "carrier": "AA", "route": None}).encode(),
    ).batch

    for name in ("x_NF", "missing_NF", "category_NC", "y_N"):
        np.testing.assert_array_equal(getattr(from_json, name), getattr(from_csv, name), err_msg=name)
        assert getattr(from_json, name).dtype == getattr(from_csv, name).dtype


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("line", [b"1,1,2,3,UA,x", b'1,1,2,3,"UA",x', b'1,1,2,3,UA,"a,b\nc ""d"""'])
def test_a_line_may_be_quoted_and_may_still_carry_its_end(line, end):
    assert [[2, 3]] == decode(csv_decoder(), line + end).batch.x_NF.tolist()


@settings(max_examples=400, deadline=None, derandomize=True)
@given(text=st.text(alphabet="0123456789+-.eE_ naif\t\x1f٣", min_size=1, max_size=8))
def test_numbers_are_exactly_the_plain_decimal_ones(text):
    """The reader asks float() and then a few characters; this asks the grammar."""
    plain = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text)
    decoded = decode(csv_decoder(), f"1,1,{text},3,UA,x".encode())

    if plain and abs(float(text)) < 3e38:
        assert [np.float32(float(text))] == decoded.batch.x_NF[:, 0].tolist()
    else:
        assert 1 == len(decoded.rejects)


def test_another_delimiter_can_be_chosen():
    assert [[1.0, 2.0]] == decode(csv_decoder(delimiter="\t"), b"1\t1\t1\t2\ta,b\tx").batch.x_NF.tolist()


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"1,1,far,3,UA,x", RejectReason.WRONG_TYPE, "distance: expected a number, came the string 'far'"),
        (b"1,1, 2,3,UA,x", RejectReason.WRONG_TYPE, "distance: expected a number, came the string ' 2'"),
        (b"1,1,2\t,3,UA,x", RejectReason.WRONG_TYPE, "distance: expected a number, came the string '2\\t'"),
        (b"1,1,1_000,3,UA,x", RejectReason.WRONG_TYPE, "distance: expected a number, came the string '1_000'"),
        (b"1,1,0x1,3,UA,x", RejectReason.WRONG_TYPE, "distance: expected a number, came the string '0x1'"),
        (b"1,1,e,3,UA,x", RejectReason.WRONG_TYPE, "distance: expected a number, came the string 'e'"),
        ("1,1,٣,3,UA,x".encode(), RejectReason.WRONG_TYPE, "distance: expected a number, came the string '٣'"),
        (b"1,1,nan,3,UA,x", RejectReason.NOT_FINITE, "distance: expected a finite number, came the string 'nan'"),
        (b"1,1,2,-Infinity,UA,x", RejectReason.NOT_FINITE,
         "wind: expected a finite number, came the string '-Infinity'"),
        (b"1,1,1e39,3,UA,x", RejectReason.TOO_LARGE_NUMBER,
         "distance: expected a number within ±3.4e38, came the number 1e+39"),
        (b"1,1,2,1e999,UA,x", RejectReason.TOO_LARGE_NUMBER,
         "wind: expected a number within ±3.4e38, came the number inf"),
        (b"1,1,,3,UA,x", RejectReason.MISSING_FEATURE, "distance: expected a value, came nothing"),
        (b"1,1,2,3,,x", RejectReason.MISSING_FEATURE, "carrier: expected a value, came nothing"),
        (b"1,,2,3,UA,x", RejectReason.MISSING_TARGET, "delayed: expected a value, came nothing"),
        (b"1,yes,2,3,UA,x", RejectReason.UNKNOWN_CLASS,
         "delayed: expected one of the classes 0, 1; came the string 'yes'"),
        (b"1,1,2,3,UA", RejectReason.BAD_SYNTAX, "expected one line of CSV: 5 fields, the header has 6"),
        (b"", RejectReason.BAD_SYNTAX, "expected one line of CSV: 1 fields, the header has 6"),
        (b'1,1,2,3,"UA,x', RejectReason.BAD_SYNTAX, "expected one line of CSV: unexpected end of data"),
        (b"1,1,2,3,UA,x\n1,1,2,3,UA,x", RejectReason.BAD_SYNTAX,
         "expected one line of CSV: a line break outside quotes"),
        (b"1,1,2,3,U\xff,x", RejectReason.BAD_UTF8, "byte 9 (0xff) is not UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_line_is_rejected_with_field_expectation_and_value(line, reason, detail):
    decoded = decode(csv_decoder(), b"1,0,2,3,UA,x", line, None, b"2,1,2,3,UA,x")
    assert_accounts_for_all(decoded, 4)

    assert [0, 1] == decoded.batch.y_N.tolist()
    assert [(1, reason, detail)] == [(r.offset, r.reason, r.detail) for r in decoded.rejects]


def test_an_open_quote_does_not_swallow_the_next_record():
    decoded = decode(csv_decoder(), b'1,0,2,3,"UA,x', b'2,1,2,3,UA",x', b"3,1,2,3,UA,x")

    assert [0] == [reject.offset for reject in decoded.rejects]
    assert 2 == len(decoded.batch)


def test_a_huge_quoted_field_is_a_bad_record_and_not_an_error():
    """The csv module has a limit of its own, and an error of its own."""
    decoded = decode(csv_decoder(), b'1,0,2,3,"' + b"x" * 200_000 + b'",x')

    assert [RejectReason.BAD_SYNTAX] == [reject.reason for reject in decoded.rejects]


def test_a_number_target_is_read_like_a_number():
    schema = Schema(numbers=(NumberFeature(name="x"),), target=Target(name="y", kind=TargetKind.NUMBER))

    assert [-2.5] == decode(CsvDecoder(schema, ["x", "y"]), b"1,-2.5").batch.y_N.tolist()


def test_a_declared_field_that_the_header_lacks_is_a_configuration_error():
    message = "schema: 'distance' is not a column; the CSV header is: delayed, dist. Correct either of them."
    with pytest.raises(ConfigError) as error:
        CsvDecoder(SCHEMA, ["delayed", "dist"])
    assert message == str(error.value)


def test_a_header_with_one_name_twice_is_refused():
    with pytest.raises(ConfigError, match="CSV header names wind twice: wind, wind"):
        CsvDecoder(SCHEMA, ["wind", "wind"])


def test_arrays_have_no_form_in_csv():
    with pytest.raises(ConfigError, match=r"schema\.features\.image: CSV cannot hold arrays; use JSON\."):
        CsvDecoder(SCHEMA_WITH_ARRAY, HEADER)


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_the_delimiter_is_one_ordinary_character(delimiter):
    with pytest.raises(ConfigError, match="delimiter is"):
        csv_decoder(delimiter=delimiter)
