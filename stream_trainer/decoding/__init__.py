"""Bytes to columns: one decoder a format, all with the same verdicts on the same mistakes."""

from typing import Any

from stream_trainer.contracts import Decoder
from stream_trainer.decoding.csv_lines import CsvDecoder
from stream_trainer.decoding.json_lines import JsonDecoder
from stream_trainer.errors import ConfigError
from stream_trainer.schema import Schema

__all__ = ["DECODERS", "CsvDecoder", "JsonDecoder", "build_decoder"]

DECODERS: dict[str, type[CsvDecoder] | type[JsonDecoder]] = {"csv": CsvDecoder, "json": JsonDecoder}


def build_decoder(format: str, schema: Schema, **options: Any) -> Decoder:
    """The decoder registered under `format`; options are those of its class.

    >>> from stream_trainer.schema import NumberFeature, Target
    >>> schema = Schema(numbers=(NumberFeature(name="distance"),), target=Target.binary("late"))
    >>> type(build_decoder("csv", schema, header=["distance", "late"])).__name__
    'CsvDecoder'
    >>> build_decoder("xml", schema)
    Traceback (most recent call last):
    stream_trainer.errors.ConfigError: format is 'xml'; known formats: csv, json.
    """
    if format not in DECODERS:
        raise ConfigError(f"format is {format!r}; known formats: {', '.join(sorted(DECODERS))}.")
    return DECODERS[format](schema, **options)
