"""Arrows between rooms point one way."""

import ast
import pathlib

import speechbrain_cadino

ROOT = pathlib.Path(speechbrain_cadino.__file__).parent

# From the ground up: a room imports from those of earlier lines alone.
FLOORS = [
    ["config", "process"],
    ["dataio"],
    ["embeddings"],
    ["encoders", "losses"],
    ["lobes", "gate", "clustering"],
    ["training"],
    ["brains", "verification", "frames"],
    ["prepare"],
    ["runs", "demo"],
    ["audio_visual"],
    ["commands"],
]


ROOMS = {room for rooms in FLOORS for room in rooms}


def imported(node):
    """The whole names of what a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def arrows():
    """Pairs of a module and a room that it imports from."""
    for path in ROOT.rglob("*.py"):
        if path.parent == ROOT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for name in imported(node):
                package, room, *_ = [*name.split("."), "", ""]
                if package == "speechbrain_cadino" and room in ROOMS:
                    yield path.relative_to(ROOT), room


def test_rooms_import_from_lower_floors_alone():
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    wrong = [
        f"{path} imports from {room}"
        for path, room in arrows()
        if path.parts[0] != room and floor[path.parts[0]] <= floor[room]
    ]
    assert not wrong


def test_faces_are_imported_by_no_room_of_voices():
    users = {path.parts[0] for path, room in arrows() if room == "audio_visual"}
    assert users == {"audio_visual"}


def test_the_hallway_is_empty():
    names = {path.name for path in ROOT.iterdir() if path.is_file()}
    assert names == {"__init__.py", "__main__.py"}
