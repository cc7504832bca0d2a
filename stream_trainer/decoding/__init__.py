"""Bytes to columns: one decoder a format, all with the same verdicts on the same mistakes."""

from stream_trainer.decoding.json_lines import JsonDecoder

__all__ = ["JsonDecoder"]
