"""A disk that fails on demand, under code that does not know: every file operation below one directory goes through it.

The files are real; what is not real is their fate. Before each operation `decide` may say that the process dies, that
the machine does, or that the disk refuses. After a power cut only that is sure to be there which an fsync has promised:
the bytes of a file by an fsync of the file, its name by an fsync of its directory. The rest survives or is torn, as the
generator says; names of one directory are lost from the newest backwards, as journaling file systems do.

Refused: several processes, links, memory maps. Bytes that are written through a file object are seen at the next fsync.
Model: what ext4 and xfs may do, and no worse; see Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

import builtins
import errno
import io
import os
import random
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

__all__ = ["Crash", "Fault", "FaultyDisk"]


class Crash(BaseException):
    """The process ends here: nothing that runs after it can write."""


class Fault(Enum):
    """What can happen instead of an operation."""

    KILL = "kill"  # the process dies before it; what the operating system has is kept
    TORN_WRITE = "torn_write"  # it dies in the middle of a write
    POWER_CUT = "power_cut"  # the machine dies before it
    DISK_FULL = "disk_full"
    SHORT_WRITE = "short_write"  # the disk takes a part of a write
    SYNC_FAILED = "fsync_failed"

    @property
    def ends_process(self) -> bool:
        return self in (Fault.KILL, Fault.TORN_WRITE, Fault.POWER_CUT)

    @property
    def operations(self) -> tuple[str, ...]:
        """Those that a refusal can meet."""
        refusals = {
            Fault.DISK_FULL: ("open", "write", "mkdir"),
            Fault.SHORT_WRITE: ("write",),
            Fault.SYNC_FAILED: ("fsync",),
        }
        return refusals.get(self, ())


@dataclass
class _Change:
    """A name that appeared, went or changed, and whether its directory was synced since."""

    kind: str  # created, renamed, removed, removed_directory
    path: Path  # as it was called then
    directory: Path  # as it is called now
    other: Path | None = None  # renamed: the new name; removed: where its bytes are kept
    covered: Path | None = None  # renamed: where the bytes of a replaced file are kept
    durable: bool = False


class FaultyDisk:
    """A context in which files below `root` are at the mercy of `decide`.

    Args:
        root: an absolute path of a directory that exists. Beside it lies `root.gone`, for what may come back.
        decide: is told the operation ("open", "write", "fsync", "rename", "unlink", "mkdir", "rmdir", "truncate") and
            its path, right before it. None: it succeeds.
        rng: says what survives a power cut.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp()) / "disk"; root.mkdir()
    >>> with FaultyDisk(root, lambda operation, path: None, random.Random(2)) as disk:
    ...     _ = (root / "never synced").write_bytes(b"x")
    ...     disk.recover(power_cut=True)
    >>> list(root.iterdir())
    []
    """

    def __init__(self, root: Path, decide: Callable[[str, Path], Fault | None], rng: random.Random) -> None:
        self.root, self._decide, self._rng = root, decide, rng
        self.dead = False
        self._gone = root.with_name(root.name + ".gone")
        self._gone.mkdir(exist_ok=True)
        self._gone_files = 0
        self._changes: list[_Change] = []
        self._known: set[Path] = set()  # files whose creation was seen
        self._synced: dict[Path, bytes] = {}  # what a power cut cannot take
        self._descriptors: dict[int, Path] = {}
        self._file_objects: list[tuple[Any, Path]] = []
        self._real: dict[str, Any] = {}

    def __enter__(self) -> "FaultyDisk":
        for name in ("open", "write", "fsync", "close", "rename", "replace", "unlink", "remove", "mkdir", "rmdir"):
            self._patch(os, name, getattr(self, f"_{name}"))
        self._patch(os, "truncate", self._truncate)
        self._patch(os, "ftruncate", self._ftruncate)
        self._patch(uuid, "uuid4", lambda: uuid.UUID(int=self._rng.getrandbits(128)))  # a replay finds the same names
        self._real["io.open"] = io.open
        io.open = builtins.open = self._open_file
        return self

    def __exit__(self, *exception: object) -> None:
        for name, real in self._real.items():
            if name == "io.open":
                io.open = builtins.open = real
            else:
                setattr(uuid if name == "uuid4" else os, name, real)
        self._real = {}

    def recover(self, *, power_cut: bool) -> None:
        """The process is gone and starts again: its buffers are lost, and after a power cut what was not synced."""
        self._drop_descriptors()
        if power_cut:
            self._tear_files()
            self._undo_names()
            self._changes.clear()
            files = [path for path in self.root.rglob("*") if path.is_file()]
            self._known = set(files)
            self._synced = {path: self._read(path) for path in files}
        self.dead = False

    # ------------------------------------------------------------ between the program and the disk

    def _operate(self, operation: str, path: Path) -> Fault | None:
        if self.dead:
            raise Crash(f"{operation} of {path.name} after the end")
        fault = self._decide(operation, path)
        if self.dead:  # another thread was let run meanwhile, and died
            raise Crash(f"{operation} of {path.name} after the end")
        if fault and fault.ends_process and not (fault is Fault.TORN_WRITE and operation == "write"):
            self.die(f"{fault.value} before {operation} of {path.name}")
        if fault in (Fault.DISK_FULL, Fault.SYNC_FAILED) and operation in fault.operations:
            number = errno.ENOSPC if fault is Fault.DISK_FULL else errno.EIO
            raise OSError(number, os.strerror(number), str(path))
        return fault

    def die(self, why: str) -> None:
        """From here on nothing is written. Raises Crash."""
        self.dead = True
        raise Crash(why)

    def _inside(self, path: Any, dir_fd: int | None = None) -> Path | None:
        """The path if it lies below the root."""
        if isinstance(path, int):
            return None
        whole = Path(os.fsdecode(path))
        if dir_fd is not None:
            if dir_fd not in self._descriptors:
                return None
            whole = self._descriptors[dir_fd] / whole
        return whole if self.root in whole.parents or whole == self.root else None

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        inside = self._inside(path, dir_fd)
        if inside is not None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._operate("open", inside)
            self._seen(inside, creates=bool(flags & os.O_CREAT))
        descriptor: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if inside is not None:
            self._descriptors[descriptor] = inside
            self._seen(inside, creates=False)
        return descriptor

    def _open_file(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if file in self._descriptors:  # os.fdopen: the file object closes it from now on
            opened = self._real["io.open"](file, mode, *args, **options)
            self._file_objects.append((opened, self._descriptors.pop(file)))
            return opened
        inside = self._inside(file)
        if inside is None or not set(mode) & set("wax+"):
            return self._real["io.open"](file, mode, *args, **options)
        if not options.get("opener"):  # which goes through _open
            self._operate("open", inside)
            self._seen(inside, creates=True)
        opened = self._real["io.open"](file, mode, *args, **options)
        self._descriptors.pop(opened.fileno(), None)
        self._file_objects.append((opened, inside))
        return opened

    def _write(self, descriptor: int, content: bytes) -> int:
        path = self._descriptors.get(descriptor)
        fault = self._operate("write", path) if path else None
        if fault in (Fault.TORN_WRITE, Fault.SHORT_WRITE):
            written: int = self._real["write"](descriptor, content[: self._rng.randrange(len(content) + 1)])
            if fault is Fault.TORN_WRITE:
                self.die("torn_write")
            return written
        return self._real["write"](descriptor, content)

    def _fsync(self, descriptor: int) -> None:
        path = self._path_of(descriptor)
        if path is None:
            self._real["fsync"](descriptor)
            return
        self._operate("fsync", path)
        if not path.is_dir():
            self._synced[path] = self._read(path)
            return
        for change in self._changes:
            change.durable |= change.directory == path

    def _close(self, descriptor: int) -> None:
        self._descriptors.pop(descriptor, None)
        self._real["close"](descriptor)

    def _rename(self, source: Any, target: Any, **options: Any) -> None:
        old, new = self._inside(source), self._inside(target)
        if old is None or new is None:
            self._real["rename"](source, target, **options)
            return
        self._operate("rename", old)
        covered = self._bury(new) if new.is_file() else None
        self._real["rename"](old, new)
        self._changes.append(_Change("renamed", old, old.parent, other=new, covered=covered))
        for change in self._changes:
            change.directory = _moved(change.directory, old, new)
        self._known = {_moved(path, old, new) for path in self._known}
        self._synced = {_moved(path, old, new): content for path, content in self._synced.items()}

    _replace = _rename

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        inside = self._inside(path, dir_fd)
        if inside is None:
            self._real["unlink"](path, dir_fd=dir_fd)
            return
        self._operate("unlink", inside)
        self._changes.append(_Change("removed", inside, inside.parent, other=self._bury(inside)))
        self._known.discard(inside)
        self._synced.pop(inside, None)

    _remove = _unlink

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        inside = self._inside(path, dir_fd)
        if inside is not None and not inside.exists():
            self._operate("mkdir", inside)
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        if inside is not None:
            self._changes.append(_Change("created", inside, inside.parent))

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        inside = self._inside(path, dir_fd)
        if inside is not None:
            self._operate("rmdir", inside)
            self._changes.append(_Change("removed_directory", inside, inside.parent))
        self._real["rmdir"](path, dir_fd=dir_fd)

    def _truncate(self, path: Any, length: int) -> None:
        inside = self._path_of(path) if isinstance(path, int) else self._inside(path)
        if inside is not None:
            self._operate("truncate", inside)
        self._real["truncate"](path, length)

    def _ftruncate(self, descriptor: int, length: int) -> None:
        self._truncate(descriptor, length)

    # ------------------------------------------------------------ what is remembered

    def _patch(self, module: Any, name: str, replacement: Any) -> None:
        self._real[name] = getattr(module, name)
        setattr(module, name, replacement)

    def _path_of(self, descriptor: int) -> Path | None:
        if descriptor in self._descriptors:
            return self._descriptors[descriptor]
        self._file_objects = [(opened, path) for opened, path in self._file_objects if not opened.closed]
        return next((path for opened, path in self._file_objects if opened.fileno() == descriptor), None)

    def _seen(self, path: Path, *, creates: bool) -> None:
        """Note a name that is new: made right now, or before by a library that does not ask us."""
        if path not in self._known and (path.is_file() or (creates and not path.exists())):
            self._known.add(path)
            self._changes.append(_Change("created", path, path.parent))

    def _bury(self, path: Path) -> Path:
        """Take a file away, and keep it: a power cut may bring it back."""
        self._gone_files += 1
        grave = self._gone / str(self._gone_files)
        self._real.get("rename", os.rename)(path, grave)
        return grave

    def _read(self, path: Path) -> bytes:
        with self._real["io.open"](path, "rb") as file:
            return file.read()

    # ------------------------------------------------------------ what is left

    def _drop_descriptors(self) -> None:
        """As the kernel does. What a file object had buffered must not reach a file that is opened later."""
        null = self._real["open"](os.devnull, os.O_WRONLY)
        for opened, _ in self._file_objects:
            if not opened.closed:
                os.dup2(null, opened.fileno())
                opened.close()
        for descriptor in self._descriptors:
            self._real["close"](descriptor)
        self._real["close"](null)
        self._descriptors, self._file_objects = {}, []

    def _tear_files(self) -> None:
        for path in sorted(self.root.rglob("*")):
            if not path.is_file():
                continue
            content, sure = self._read(path), self._synced.get(path, b"")
            if content == sure:
                continue
            kept = next((i for i, (a, b) in enumerate(zip(content, sure)) if a != b), min(len(content), len(sure)))
            torn = content[: self._rng.randint(kept, len(content))]
            with self._real["io.open"](path, "wb") as file:
                file.write(self._rng.choice([sure, torn, torn + bytes(len(content) - len(torn)), content]))

    def _undo_names(self) -> None:
        """From the newest change backwards; of each directory a random number of its newest is undone."""
        unsure: dict[Path, list[_Change]] = {}
        for change in self._changes:
            if not change.durable:
                unsure.setdefault(change.directory, []).append(change)
        lost = {id(c) for changes in unsure.values() for c in changes[self._rng.randint(0, len(changes)) :]}
        kept_names: list[tuple[Path, Path]] = []  # renames that stay, newest first: older changes know the old name
        for change in reversed(self._changes):
            path = change.path
            for old, new in reversed(kept_names):
                path = _moved(path, old, new)
            if id(change) in lost:
                self._undo(change, path)
            elif change.kind == "renamed" and change.other is not None:
                kept_names.append((change.path, change.other))
        for path in sorted(self.root.rglob("*")):  # made by a library, and its directory never synced
            if path.is_file() and path not in self._known and self._rng.random() < 0.5:
                self._real["unlink"](path)

    def _undo(self, change: _Change, path: Path) -> None:
        if not path.parent.is_dir():
            return
        if change.kind == "created":
            if path.is_dir():
                shutil.rmtree(self._moved_away(path))
            elif path.exists():
                self._bury(path)
        elif change.kind == "renamed" and change.other is not None:
            there = path.with_name(change.other.name)
            if there.exists():
                self._real["rename"](there, path)
                self._known = {_moved(known, there, path) for known in self._known}
            if change.covered is not None:
                self._real["rename"](change.covered, there)
        elif change.kind == "removed" and change.other is not None and change.other.exists():
            self._real["rename"](change.other, path)
            self._known.add(path)
        elif change.kind == "removed_directory" and not path.exists():
            self._real["mkdir"](path)

    def _moved_away(self, directory: Path) -> Path:
        return self._bury(directory)


def _moved(path: Path, old: Path, new: Path) -> Path:
    """`path` after `old` was renamed to `new`."""
    if path == old:
        return new
    return new / path.relative_to(old) if old in path.parents else path
