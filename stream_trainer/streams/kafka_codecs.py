"""The codecs that a Kafka producer may use, bounded: what a batch unpacks to is never more than `UNPACKED_BYTES_MAX`.

Nobody knows which of them a producer will choose tomorrow, so all must be there at the start (`check_codecs`), not only
when the first such batch lies before us. The libraries are kafka-python's own choice, so its producer has them, too.
Sources: Kafka's documentation, section "Message Format"; snappy's format_description.txt (the length in front of a
block); the blocks of Java producers are framed as by snappy-java's SnappyOutputStream.
"""

import zlib
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from stream_trainer.errors import ConfigError

__all__ = ["GZIP", "LZ4", "SNAPPY", "UNPACKED_BYTES_MAX", "ZSTD", "check_codecs", "decompress"]

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4  # as in the attributes of a batch
UNPACKED_BYTES_MAX = 256 * 2**20  # a batch of 1 MiB that unpacks to more is an attack, not data
FRAMED_BY_JAVA = b"\x82SNAPPY\x00"
FRAME_HEADER_BYTES = 16  # that, and two numbers of versions


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        return None


LIBRARIES = MappingProxyType({"lz4": _library("lz4.frame"), "python-snappy": _library("snappy"),
                              "zstandard": _library("zstandard")})  # fmt: skip


def check_codecs(libraries: Mapping[str, Any] = LIBRARIES) -> None:
    """Raises: ConfigError: records of some producers could not be read.

    >>> check_codecs({"lz4": object(), "zstandard": None})
    Traceback (most recent call last):
    stream_trainer.errors.ConfigError: Compressed records could not be read: pip install zstandard.
    """
    if missing := [name for name, library in libraries.items() if library is None]:
        raise ConfigError(f"Compressed records could not be read: pip install {' '.join(missing)}.")


def decompress(data: bytes, codec: int) -> bytes:
    """The body of a batch. Raises: NotImplementedError: a codec unknown here; ValueError: damaged, or a bomb."""
    if codec not in UNPACKERS:
        raise NotImplementedError(f"codec number {codec}")
    bytes_max = UNPACKED_BYTES_MAX
    try:
        plain = UNPACKERS[codec](data, bytes_max)
    except Exception as error:  # each library has exceptions of its own for damaged data
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if len(plain) > bytes_max:
        raise ValueError(f"it unpacks to more than {bytes_max} bytes")
    return plain


def _gunzip(data: bytes, bytes_max: int) -> bytes:
    parts, left = [], bytes_max + 1
    while data and left > 0:
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(data, left))
        left -= len(parts[-1])
        if not member.eof and left > 0:
            raise ValueError("the gzip stream is cut off")
        data = member.unused_data
    return b"".join(parts)


def _unlz4(data: bytes, bytes_max: int) -> bytes:
    frame = LIBRARIES["lz4"].LZ4FrameDecompressor()
    plain: bytes = frame.decompress(data, bytes_max + 1)
    if not frame.eof and len(plain) <= bytes_max:
        raise ValueError("the lz4 frame is cut off")
    return plain


def _unzstd(data: bytes, bytes_max: int) -> bytes:
    with LIBRARIES["zstandard"].ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        plain: bytes = reader.read(bytes_max + 1)
        return plain


def _unsnappy(data: bytes, bytes_max: int) -> bytes:
    """One block as librdkafka writes it, or the framed blocks of Java and kafka-python."""
    if not data.startswith(FRAMED_BY_JAVA):
        return _unsnappy_block(data, bytes_max)
    parts, at, left = [], FRAME_HEADER_BYTES, bytes_max
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data):
            raise ValueError("the last snappy block is cut off")
        parts.append(_unsnappy_block(data[start:at], left))
        left -= len(parts[-1])
    return b"".join(parts)


def _unsnappy_block(block: bytes, bytes_max: int) -> bytes:
    """The library cannot be told a bound, but the block begins with the length that it promises."""
    length = 0
    for i, byte in enumerate(block[:5]):
        length |= (byte & 0x7F) << 7 * i
        if byte < 128:
            break
    if length > bytes_max:
        raise ValueError(f"it unpacks to more than {UNPACKED_BYTES_MAX} bytes")
    plain: bytes = LIBRARIES["python-snappy"].uncompress(block)
    return plain


UNPACKERS: Mapping[int, Callable[[bytes, int], bytes]] = MappingProxyType(
    {GZIP: _gunzip, SNAPPY: _unsnappy, LZ4: _unlz4, ZSTD: _unzstd}
)
