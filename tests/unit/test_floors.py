"""Imports go down only: the reason why a part can be read, tested and replaced without what lies above it."""

import ast
from pathlib import Path

import stream_trainer

ROOT = Path(stream_trainer.__file__).parent
FLOORS = [
    {"errors", "clock", "schema", "types", "contracts", "compiled"},
    {"norms", "optimizers", "drift", "evaluation", "decoding"},
    {"models"},
    {"engine", "streams", "checkpoints", "telemetry"},
    {"service", "demo", "cli", "__main__", "testing"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAY_IMPORT_BESIDE = {  # rooms of one floor that may know each other; the lowest floor is one vocabulary
    **dict.fromkeys(FLOORS[0], FLOORS[0]),
    "cli": {"service", "demo"},
    "demo": {"service"},
    "testing": {"service"},
    "__main__": {"cli"},
}


def _imports(path: Path) -> set[str]:
    """Rooms of ours that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "stream_trainer":
            names.update(f"stream_trainer.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import; write the whole path"
            names.add(node.module)
    return {name.split(".")[1] for name in names if name.startswith("stream_trainer.")} - {"__version__"}


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_room_has_a_floor():
    """A new room must be placed before it is furnished."""
    rooms = {_room(path) for path in ROOT.rglob("*.py")} - {"__init__"}

    assert rooms <= FLOOR.keys()


def test_imports_go_down_only():
    """An arrow that climbs makes two rooms one."""
    climbing = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in sorted(ROOT.rglob("*.py"))
        if (room := _room(path)) != "__init__"
        for other in sorted(_imports(path) - {room})
        if FLOOR[other] >= FLOOR[room] and other not in MAY_IMPORT_BESIDE.get(room, ())
    ]

    assert climbing == []


def test_the_engine_knows_no_outside_world():
    """It is handed batches and numbers: no clock, no files, no sockets, no Kafka."""
    forbidden = {"time", "datetime", "socket", "os", "pathlib", "kafka", "threading", "asyncio"}
    for path in sorted((ROOT / "engine").rglob("*.py")):
        tree = ast.parse(path.read_text())
        imported = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        imported |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}

        assert not imported & forbidden, path
