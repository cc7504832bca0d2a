"""One snapshot as a few files: `arrays.safetensors`, `state.json`, `pickles/*.pickle` and, last, `manifest.json`.

The manifest names every file with its size and sha256, and carries a hash of itself: safetensors and torch both load
a flipped bit without a word. What is loaded is the very bytes that were verified. Pickles run code when loaded, so they
are read only where the caller says the place is trusted. Not here: where the files lie (store.py), which
checkpoints there are and who may write them (directory.py).
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from stream_trainer.checkpoints.store import Store
from stream_trainer.checkpoints.tensor_file import tensor_chunks
from stream_trainer.errors import CheckpointError, CorruptCheckpoint
from stream_trainer.types import Counts, Positions, Snapshot, State, TopicPartition

__all__ = ["FORMAT", "read_files", "read_manifest", "snapshot_of", "write_snapshot"]

FORMAT = 1
MANIFEST = "manifest.json"
ARRAYS, VALUES = "arrays.safetensors", "state.json"


def write_snapshot(
    snapshot: Snapshot,
    store: Store,
    folder: str,
    about: Mapping[str, Any],
    *,
    before_manifest: Callable[[], None] = lambda: None,
) -> int:
    """Write every file, the manifest last, with `about` in it as it is. Returns the bytes written.

    Args: before_manifest: called when all else is written; whatever it raises keeps the snapshot from being complete.
    """
    arrays = {f"{part}|{name}": a for part, state in snapshot.parts.items() for name, a in state.arrays.items()}
    values = {part: dict(state.values) for part, state in snapshot.parts.items()}
    pickles = {(part, name): blob for part, state in snapshot.parts.items() for name, blob in state.pickles.items()}
    files: dict[str, dict[str, Any]] = {}

    def write(name: str, chunks: Iterable[bytes | memoryview]) -> None:
        digest = _Digest()
        store.write(f"{folder}/{name}", digest.of(chunks))
        files[name] = {"bytes": digest.n_bytes, "sha256": digest.hexdigest()}

    write(ARRAYS, tensor_chunks({key: _tensor(array) for key, array in arrays.items()}))
    write(VALUES, [json.dumps(values).encode()])
    for (part, name), blob in pickles.items():
        write(_pickle_file(part, name), [blob])
    topic_ids = {"topic_ids": dict(snapshot.topic_ids)} if snapshot.topic_ids else {}
    body = {
        "format": FORMAT,
        **about,
        "counts": {name: getattr(snapshot.counts, name) for name in Counts.__slots__},
        "positions": [[tp.topic, tp.partition, offset] for tp, offset in sorted(snapshot.positions.items())],
        **topic_ids,
        "parts": sorted(snapshot.parts),
        "tensors": sorted(key for key, array in arrays.items() if isinstance(array, torch.Tensor)),
        "pickles": [[part, name, _pickle_file(part, name)] for part, name in pickles],
        "files": files,
    }
    before_manifest()
    manifest = {"body": body, "sha256": _sha256_of_json(body)}
    store.write(f"{folder}/{MANIFEST}", [json.dumps(manifest, indent=1).encode()])
    return sum(entry["bytes"] for entry in files.values())


def read_manifest(store: Store, folder: str) -> dict[str, Any]:
    """The body of the manifest, its own hash checked. Raises: CorruptCheckpoint, CheckpointError: another format."""
    where = f"{store.address}/{folder}/{MANIFEST}"
    try:
        manifest = json.loads(store.read(f"{folder}/{MANIFEST}"))
        body, expected = manifest["body"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{where}: expected a manifest, found none that can be read ({error}).") from error
    found = _sha256_of_json(body)
    if found != expected:
        raise CorruptCheckpoint(f"{where}: sha256 of its body is {found[:12]}, it says {expected}: torn or edited.")
    if body["format"] != FORMAT:
        raise CheckpointError(
            f"{where}: format {body['format']}, this version reads format {FORMAT}. Run the version that wrote it: "
            f"stream-trainer {body.get('versions', {}).get('stream-trainer', '?')}."
        )
    return body


def read_files(store: Store, folder: str, body: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Each file that the manifest names, equal to what it says in every byte.

    Raises: CorruptCheckpoint naming the first that differs.
    """
    for name, entry in body["files"].items():
        where = f"{store.address}/{folder}/{name}"
        try:
            content = store.read(f"{folder}/{name}")
        except OSError as error:
            raise CorruptCheckpoint(f"{where}: named in the manifest, cannot be read ({error.strerror}).") from error
        found = hashlib.sha256(content).hexdigest()
        if (len(content), found) != (entry["bytes"], entry["sha256"]):
            raise CorruptCheckpoint(
                f"{where}: {len(content)} bytes with sha256 {found[:12]}, the manifest says {entry['bytes']} bytes "
                f"with {entry['sha256'][:12]} (step {body['counts']['batches']}): torn or altered."
            )
        yield name, content


def snapshot_of(body: Mapping[str, Any], files: Mapping[str, bytes]) -> Snapshot:
    """The snapshot that verified files hold. Runs no pickle, but whoever restores from it will."""
    values = json.loads(files[VALUES])
    arrays: dict[str, dict[str, np.ndarray | torch.Tensor]] = {part: {} for part in body["parts"]}
    tensors = frozenset(body["tensors"])  # who gave a numpy array gets one back
    for key, tensor in load_tensors(files[ARRAYS]).items():
        part, _, name = key.partition("|")
        arrays[part][name] = tensor if key in tensors else tensor.numpy()
    pickles: dict[str, dict[str, bytes]] = {part: {} for part in body["parts"]}
    for part, name, file in body["pickles"]:
        pickles[part][name] = files[file]
    return Snapshot(
        positions=_positions(body),
        counts=Counts(**body["counts"]),
        parts={p: State(arrays=arrays[p], values=values[p], pickles=pickles[p]) for p in body["parts"]},
        topic_ids=body.get("topic_ids", {}),
    )


class _Digest:
    """Hashes and counts chunks on their way."""

    def __init__(self) -> None:
        self._sha256, self.n_bytes = hashlib.sha256(), 0

    def of(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for chunk in chunks:
            self._sha256.update(chunk)
            self.n_bytes += len(chunk)
            yield chunk

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _positions(body: Mapping[str, Any]) -> Positions:
    return {TopicPartition(topic, partition): offset for topic, partition, offset in body["positions"]}


def _tensor(array: "np.ndarray | torch.Tensor") -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array.detach().cpu()
    return tensor.contiguous()


def _pickle_file(part: str, name: str) -> str:
    return f"pickles/{_file_name(part)}.{_file_name(name)}.pickle"


def _file_name(name: str) -> str:
    """A name that is safe on every file system; names of models come from the user."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=") if not name.isidentifier() else name


def _sha256_of_json(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
