"""The places where checkpoints may lie; whoever asks for `place` runs on all of them."""

import uuid
from pathlib import Path

import fsspec
import pytest

from stream_trainer.checkpoints.store import open_store


@pytest.fixture(params=["path", "file", "memory"])
def place(request, tmp_path):
    """A directory of this machine, and two object stores: one on a disk, one in memory."""
    if request.param == "path":
        yield str(tmp_path / "place")
    elif request.param == "file":
        yield f"file://{tmp_path}/place"
    else:
        address = f"memory://{uuid.uuid4().hex}"
        yield address
        memory = fsspec.filesystem("memory")
        if memory.exists(address):
            memory.rm(address, recursive=True)


@pytest.fixture
def store(place):
    return open_store(place)


@pytest.fixture
def put(place):
    """put(key, content): behind the back of everybody."""

    def put(key: str, content: bytes) -> None:
        file_system, base = fsspec.core.url_to_fs(place, auto_mkdir=True)
        with file_system.open(f"{base}/{key}", "wb") as file:
            file.write(content)

    return put


@pytest.fixture
def remove(place):
    """remove(key): a file or a folder, behind the back of everybody."""

    def remove(key: str) -> None:
        file_system, base = fsspec.core.url_to_fs(place, auto_mkdir=True)
        file_system.rm(f"{base}/{key}", recursive=True)

    return remove


@pytest.fixture
def keys(place):
    """keys() -> every file, relative, sorted."""

    def keys() -> list[str]:
        file_system, base = fsspec.core.url_to_fs(place, auto_mkdir=True)
        file_system.invalidate_cache()
        return sorted(str(Path(found).relative_to(base)) for found in file_system.find(base))

    return keys
