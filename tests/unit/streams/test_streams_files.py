"""A file read as a source: same offsets however it is cut, resumed or packed."""

import gzip
import io
import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_trainer.errors import ConfigError, DataLost
from stream_trainer.streams import files
from stream_trainer.streams.files import FileSource
from stream_trainer.types import TopicPartition


def read_all(source, positions=None, *, records_max=100):
    """(offset, value) of every record, and the last position."""
    ((_, end),) = source.start(positions).items()
    rows = []
    while not source.exhausted:
        for chunk in source.poll(0.0, records_max):
            assert len(chunk) <= records_max
            rows += zip(chunk.offsets, chunk.values, strict=True)
            end = chunk.next_offset
    source.close()
    return rows, end


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("last", [b"", b"\n", b"\r\n"])
def test_every_line_is_a_record_and_empty_lines_only_take_an_offset(tmp_path, pack, last):
    """Hand-made files have blank lines, Windows line ends and no last one."""
    path = tmp_path / ("two.jsonl.gz" if pack else "two.jsonl")
    content = b"\n{}\r\n\n[1]" + last
    path.write_bytes(gzip.compress(content) if pack else content)

    assert ([(1, b"{}"), (3, b"[1]")], 4) == read_all(FileSource(str(path)))
    assert ([(3, b"[1]")], 4) == read_all(FileSource(str(path)), {TopicPartition(path.name, 0): 2})


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"").rstrip(b"\r")), max_size=20),
    block_bytes=st.integers(1, 50),
    records_max=st.integers(1, 7),
    start=st.integers(0, 20),
)
@settings(max_examples=80, deadline=None)
def test_no_cut_of_the_file_changes_what_is_read(tmp_path_factory, lines, block_bytes, records_max, start):
    """Blocks end in the middle of lines, polls in the middle of blocks, restarts anywhere."""
    path = tmp_path_factory.mktemp("files") / "any.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    start = min(start, len(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK_BYTES", block_bytes)
        rows, end = read_all(FileSource(str(path)), {TopicPartition(path.name, 0): start}, records_max=records_max)

    assert [(i, line) for i, line in enumerate(lines) if line and i >= start] == rows
    assert len(lines) == end


def test_the_header_of_a_csv_file_is_exposed_and_not_a_record(tmp_path):
    """Offset 0 is the first line of data, so that positions mean the same in both formats."""
    path = tmp_path / "flights.csv"
    path.write_bytes('\ufeffcarrier, "dep hour",delay\nAA,7,1\n'.encode())
    source = FileSource(str(path))

    assert ("carrier", "dep hour", "delay") == source.header
    assert ([(0, b"AA,7,1")], 1) == read_all(source)
    assert FileSource(str(path), "jsonl").header is None


def test_a_line_longer_than_the_bound_is_cut_and_the_next_one_is_whole(tmp_path, monkeypatch):
    """A file without line ends must not fill the memory; the decoder rejects what is one byte too long."""
    monkeypatch.setattr(files, "BLOCK_BYTES", 64)
    path = tmp_path / "long.jsonl"
    path.write_bytes(b"x" * 10_000 + b"\n{}\n" + b"y" * 10 + b"\n")

    assert [(0, b"x" * 11), (1, b"{}"), (2, b"y" * 10)] == read_all(FileSource(str(path), line_bytes_max=10))[0]


def test_the_end_is_known_once_it_was_read(tmp_path):
    """Until then the service must not believe that there is nothing left."""
    path = tmp_path / "one.jsonl"
    path.write_bytes(b"{}\n")
    source = FileSource(str(path))
    source.start(None)

    assert ({}, {}, False) == (source.end_offsets(), source.lags(), source.exhausted)
    read_all(source)
    assert ({("one.jsonl", 0): 1}, {("one.jsonl", 0): 0}) == (source.end_offsets(), source.lags())


def test_standard_input_is_read_as_it_comes(monkeypatch):
    """A pipe has no end in sight: a silent one gives nothing, and polling goes on."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb", buffering=0) as sender:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
        source = FileSource("-")

        assert {TopicPartition("stdin", 0): 0} == source.start(None)
        assert () == source.poll(0.0, 10)
        sender.write(b"{}\n[]")
        assert [b"{}"] == source.poll(5.0, 10)[0].values
        sender.close()
        assert [b"[]"] == source.poll(5.0, 10)[0].values
        assert source.exhausted


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("missing.jsonl", {}, "source.file.path: there is no file .*missing.jsonl"),
        ("rows.parquet", {}, "rows.parquet ends in none of .jsonl, .ndjson, .json, .csv; set source.file.format."),
        ("-", {"format": "xml"}, "source.file.format is 'xml'; known formats: csv, jsonl."),
    ],
)
def test_what_cannot_be_read_is_said_at_once(tmp_path, monkeypatch, path, options, message):
    """Not hours later, when the first poll comes."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match=message):
        FileSource(path, **options)


def test_a_file_shorter_than_the_checkpoint_is_lost_data(tmp_path):
    """Learning on from its end would hide that it is another file."""
    path = tmp_path / "short.jsonl"
    path.write_bytes(b"{}\n{}")

    with pytest.raises(DataLost, match=r"short.jsonl has 2 lines, the checkpoint is at line 3"):
        FileSource(str(path)).start({TopicPartition("short.jsonl", 0): 3})


def test_a_cut_off_archive_is_said_and_not_taken_for_the_end(tmp_path):
    """A half downloaded file would otherwise count as all there is."""
    path = tmp_path / "half.jsonl.gz"
    path.write_bytes(gzip.compress(os.urandom(100_000))[:50_000])
    source = FileSource(str(path))

    with pytest.raises(DataLost, match="damaged or cut off"):
        read_all(source)
    source.close()
