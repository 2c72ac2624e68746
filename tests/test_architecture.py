"""The directions of the house, read from the source: who may import whom, no circles, and what importing must not cost.

An arrow is an import anywhere in a file, also inside a function or for type checkers alone. A *room* is a folder or a
file directly in a package; a room's *floor* is the number of rooms on the longest way of arrows down from it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"landscape": "landscape", "ncsam": "ncsam", "landscape_cli": "cli"}  # package: its folder
MOST = {"landscape": (15, 7), "ncsam": (14, 9)}  # rooms, and floors


@cache
def modules() -> dict[str, Path]:
    """Every module of the house by name; a package stands for its ``__init__.py``."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imported(module: str, within: ast.AST | None = None) -> Iterator[str]:
    """Absolute names that a module imports, ``package.name`` for each ``from package import name``."""
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(within or tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def reaches(module: str, *packages: str) -> set[str]:
    """Imports of a module that lie in one of the packages."""
    return {name for name in imported(module) if any(name == p or name.startswith(f"{p}.") for p in packages)}


@cache
def arrows() -> dict[str, set[str]]:
    """Which modules of the house each module imports.

    The two packages with public names are no modules of their own in this: they load a name from its home on first
    use, so that ``from landscape import Objective`` is an arrow to that home.
    """
    homes = {}
    for package in PACKAGES:
        stub = modules()[package].with_suffix(".pyi")
        if stub.exists():
            for node in ast.parse(stub.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ImportFrom):
                    homes.update({f"{package}.{alias.name}": f"{node.module}.{alias.name}" for alias in node.names})
    found: dict[str, set[str]] = {}
    for module in modules():
        names = {homes.get(name, name) for name in imported(module)}
        ends = {name if name in modules() else name.rpartition(".")[0] for name in names}
        found[module] = {end for end in ends if end in modules() and end != module and end not in PACKAGES}
    return found


def room_of(module: str, package: str) -> str | None:
    """The room of a package that holds a module."""
    return module.split(".")[package.count(".") + 1] if module.startswith(f"{package}.") else None


def rooms(package: str) -> dict[str, set[str]]:
    """Which other rooms each room of a package imports."""
    found: dict[str, set[str]] = {}
    for module, ends in arrows().items():
        room = room_of(module, package)
        if room is not None:
            found.setdefault(room, set()).update(r for e in ends if (r := room_of(e, package)) not in (None, room))
    return found


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        path.append(node)
        for end in graph[node]:
            if end not in index:
                visit(end)
            if end in path:
                low[node] = min(low[node], low[end])
        if low[node] == index[node]:
            group = path[path.index(node) :]
            del path[path.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def floors(graph: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The floor of every node of a graph without circles; the lowest is 1."""

    @cache
    def floor(node: str) -> int:
        return 1 + max(map(floor, graph[node]), default=0)

    return {node: floor(node) for node in graph}


def under(*folders: str) -> list[str]:
    """Modules of the named packages."""
    return sorted(m for m in modules() if any(m == f or m.startswith(f"{f}.") for f in folders))


# What a room must not import, itself or anything in it. Whatever is not named is free, circles apart.
TRAINING, SCREEN, DISK = ("ncsam", "sklearn"), ("landscape_cli", "click", "tqdm"), ("h5py", "landscape.store")
PICTURES = ("matplotlib", "landscape.figures")
NUMERICS = {  # each room, and which of the others it may import
    "landscape.ranks": (),
    "landscape.objective": ("landscape.ranks",),
    "landscape.curvature": ("landscape.ranks", "landscape.objective"),
    "landscape.spectrum": ("landscape.objective", "landscape.curvature"),
    "landscape.surfaces": ("landscape.ranks", "landscape.objective", "landscape.curvature"),
    "landscape.sharpness": ("landscape.objective",),
}
FORBIDDEN = {
    "landscape": (*TRAINING, *SCREEN),
    **{
        room: (*DISK, *PICTURES, *(NUMERICS.keys() - {room, *below, "landscape.ranks"}))
        for room, below in NUMERICS.items()
    },
    "landscape.records": ("torch", "matplotlib", *DISK, *PICTURES, *NUMERICS),
    "landscape.store": ("torch", *PICTURES, *NUMERICS),
    "landscape.figures": ("torch", *NUMERICS),
    "ncsam": SCREEN,
    "ncsam.optimizers": (*DISK, *PICTURES, "ncsam.training", "ncsam.runs", "ncsam.records"),
    "ncsam.training": (*DISK, *PICTURES, "ncsam.runs", "ncsam.measurements"),
}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    assert under(room), "no such room"
    assert {m: found for m in under(room) if (found := reaches(m, *FORBIDDEN[room]))} == {}


def test_no_import_runs_in_a_circle() -> None:
    assert circles(arrows()) == []


@pytest.mark.parametrize("package", sorted({m.rpartition(".")[0] for m in modules()} - {""}))
def test_rooms_of_a_package_make_no_circle(package: str) -> None:
    assert circles(rooms(package)) == []


@pytest.mark.parametrize("package", MOST)
def test_a_package_has_few_rooms_on_few_floors(package: str) -> None:
    graph = rooms(package)
    most_rooms, most_floors = MOST[package]
    assert len(graph) <= most_rooms, sorted(graph)
    assert max(floors(graph).values()) <= most_floors, floors(graph)


def test_circles_and_floors_are_those_of_known_graphs() -> None:
    assert circles({"a": "b", "b": "c", "c": "b", "d": "ad"}) == [["b", "c"]]
    assert circles({"a": "bc", "b": "d", "c": "d", "d": ""}) == []
    assert floors({"a": "bc", "b": "d", "c": "", "d": ""}) == {"a": 3, "b": 2, "c": 1, "d": 1}


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@cache
def defined(module: str) -> frozenset[str]:
    """Names that a module defines or sets: its functions, classes and variables, and attributes of their objects."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return frozenset(found)


def foreign(module: str) -> set[str]:
    """Private names of other modules of the house that a module imports or reads."""
    elsewhere = {name for other in modules() if other != module for name in defined(other)}
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            names = [a.name for a in node.names if private(a.name) and (node.module or "").split(".")[0] in PACKAGES]
            found.update(name for name in names if f"{node.module}.{name}" not in modules())
        elif isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in defined(module):
            found.update({node.attr} & elsewhere - TORCHS)
    return found


TORCHS = {"_buffers", "_modules", "_parameters", "_version"}  # of modules and tensors


def test_no_private_name_is_used_by_another_module() -> None:
    assert {module: names for module in modules() if (names := foreign(module))} == {}


def test_torch_is_loaded_only_when_needed() -> None:
    code = (
        "import sys, landscape, ncsam, landscape.store, landscape_cli.main as m\n"
        "assert m.run(['--help']) == 0 and m.run(['--version']) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
