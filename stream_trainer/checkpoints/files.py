"""One snapshot as a few files: `arrays.safetensors`, `state.json`, `pickles/*.pickle` and, last, `manifest.json`.

The manifest names every file with its size and sha256, and carries a hash of itself: safetensors and torch both load
a flipped bit without a word. Pickles run code when loaded, so they are read only where the caller says the directory
is trusted. Not here: which directory, how many, who may write (directory.py).
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stream_trainer.errors import CheckpointError, CorruptCheckpoint
from stream_trainer.types import Counts, Positions, Snapshot, State, TopicPartition

__all__ = ["FORMAT", "fsync", "read_manifest", "read_snapshot", "verify_files", "write_snapshot"]

FORMAT = 1
MANIFEST = "manifest.json"


def write_snapshot(snapshot: Snapshot, directory: Path, about: Mapping[str, Any]) -> int:
    """Write and fsync every file, the manifest last, with `about` in it as it is. Returns the bytes written."""
    arrays = {f"{part}|{name}": a for part, state in snapshot.parts.items() for name, a in state.arrays.items()}
    save_file({key: _tensor(array) for key, array in arrays.items()}, directory / "arrays.safetensors")
    values = {part: dict(state.values) for part, state in snapshot.parts.items()}
    (directory / "state.json").write_text(json.dumps(values))
    pickles = {(part, name): blob for part, state in snapshot.parts.items() for name, blob in state.pickles.items()}
    for (part, name), blob in pickles.items():
        path = directory / "pickles" / f"{_file_name(part)}.{_file_name(name)}.pickle"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(blob)
    files: dict[str, dict[str, Any]] = {}
    size_bytes = 0
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        path.chmod(0o600)
        files[str(path.relative_to(directory))] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        size_bytes += path.stat().st_size
        fsync(path)
    if pickles:
        fsync(directory / "pickles")
    body = {
        "format": FORMAT,
        **about,
        "counts": {name: getattr(snapshot.counts, name) for name in Counts.__slots__},
        "positions": [[tp.topic, tp.partition, offset] for tp, offset in sorted(snapshot.positions.items())],
        "parts": sorted(snapshot.parts),
        "tensors": sorted(key for key, array in arrays.items() if isinstance(array, torch.Tensor)),
        "pickles": [[part, name, f"pickles/{_file_name(part)}.{_file_name(name)}.pickle"] for part, name in pickles],
        "files": files,
    }
    manifest = {"body": body, "sha256": _sha256_of_json(body)}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1))
    fsync(directory / MANIFEST)
    fsync(directory)
    return size_bytes


def read_manifest(directory: Path) -> dict[str, Any]:
    """The body of the manifest, its own hash checked. Raises CorruptCheckpoint."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        body, expected = manifest["body"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{path}: expected a manifest, found none that can be read ({error}).") from error
    found = _sha256_of_json(body)
    if found != expected:
        raise CorruptCheckpoint(f"{path}: sha256 of its body is {found[:12]}, it says {expected[:12]}: torn or edited.")
    if body["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format {body['format']}, this version reads format {FORMAT}. Run the version that wrote it: "
            f"stream-trainer {body.get('versions', {}).get('stream_trainer', '?')}."
        )
    return body


def verify_files(directory: Path, body: Mapping[str, Any]) -> None:
    """Compare every file with the manifest, byte for byte. Raises CorruptCheckpoint naming the first that differs."""
    for name, entry in body["files"].items():
        path = directory / name
        try:
            size, found = path.stat().st_size, _sha256(path)
        except OSError as error:
            raise CorruptCheckpoint(f"{path}: named in the manifest, cannot be read ({error.strerror}).") from error
        if size != entry["bytes"] or found != entry["sha256"]:
            raise CorruptCheckpoint(
                f"{path}: {size} bytes with sha256 {found[:12]}, the manifest says {entry['bytes']} bytes with "
                f"{entry['sha256'][:12]} (step {body['counts']['batches']}): torn or altered."
            )


def read_snapshot(directory: Path, body: Mapping[str, Any], *, trusted: bool) -> Snapshot:
    """The snapshot of a verified directory."""
    if body["pickles"] and not trusted:
        raise CheckpointError(
            f"{directory}: holds pickles ({', '.join(part for part, _, _ in body['pickles'])}), and loading a pickle "
            "runs code. The directory must belong to this user and be writable by nobody else (chmod go-w), or say "
            "checkpoint.trusted: true."
        )
    values = json.loads((directory / "state.json").read_text())
    arrays: dict[str, dict[str, np.ndarray | torch.Tensor]] = {part: {} for part in body["parts"]}
    tensors = frozenset(body["tensors"])  # who gave a numpy array gets one back
    for key, tensor in load_file(directory / "arrays.safetensors").items():
        part, _, name = key.partition("|")
        arrays[part][name] = tensor if key in tensors else tensor.numpy()
    pickles: dict[str, dict[str, bytes]] = {part: {} for part in body["parts"]}
    for part, name, file in body["pickles"]:
        pickles[part][name] = (directory / file).read_bytes()
    return Snapshot(
        positions=_positions(body),
        counts=Counts(**body["counts"]),
        parts={p: State(arrays=arrays[p], values=values[p], pickles=pickles[p]) for p in body["parts"]},
    )


def _positions(body: Mapping[str, Any]) -> Positions:
    return {TopicPartition(topic, partition): offset for topic, partition, offset in body["positions"]}


def _tensor(array: "np.ndarray | torch.Tensor") -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array.detach().cpu()
    return tensor.contiguous()


def _file_name(name: str) -> str:
    """A name that is safe on every file system; names of models come from the user."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=") if not name.isidentifier() else name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_json(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def fsync(path: Path) -> None:
    """Make a file, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
