"""The import directions of the house, read from the source, and what importing must not cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMERICS = (
    "ascent",
    "autorange",
    "batch_choice",
    "batches",
    "batchnorm",
    "blocks",
    "centre_check",
    "certificate",
    "classes",
    "connectivity",
    "costs",
    "decomposition",
    "density",
    "directions",
    "distributed",
    "draws",
    "eigen",
    "evaluation",
    "filters",
    "folding",
    "freed_memory",
    "graphs",
    "isolation",
    "krylov",
    "lean",
    "logits",
    "losses",
    "microbatch",
    "moments",
    "objective",
    "operators",
    "parameters",
    "point",
    "precision",
    "probes",
    "products",
    "ranks",
    "refinement",
    "rows",
    "scaled",
    "scan",
    "scoring",
    "sharpness",
    "strategies",
    "surface",
    "traces",
    "tracing",
    "trajectory",
    "trial",
    "views",
)


def imports(path: Path) -> Iterator[str]:
    """Absolute names that a module imports at its top level, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def everything(path: Path) -> set[str]:
    """Absolute names that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(names: set[str], *packages: str) -> set[str]:
    return {n for n in names if any(n == p or n.startswith(f"{p}.") for p in packages)}


@pytest.mark.parametrize("path", sorted((ROOT / "landscape").rglob("*.py")), ids=lambda p: p.stem)
def test_landscape_knows_nothing_of_training_or_the_command_line(path: Path) -> None:
    assert not reaches(everything(path), "ncsam", "landscape_cli", "sklearn", "click")


@pytest.mark.parametrize("name", NUMERICS)
def test_numerics_touch_neither_disk_nor_screen(name: str) -> None:
    found = everything(ROOT / "landscape" / f"{name}.py")
    assert not reaches(found, "landscape.store", "landscape.figures", "h5py", "matplotlib", "tqdm")


def test_every_module_of_numerics_is_held_to_it() -> None:
    known = {*NUMERICS, "__init__", "_version"}
    assert {p.stem for p in (ROOT / "landscape").glob("*.py")} == known


def test_records_are_a_leaf() -> None:
    for path in (ROOT / "landscape" / "records").glob("*.py"):
        top = {name for name in imports(path) if not name.startswith("landscape.records.")}
        assert not reaches(top, "landscape", "torch", "h5py", "xarray", "matplotlib")
        # The one exception: a record's own .save(), lazily.
        beyond = {name for name in everything(path) if not name.startswith("landscape.records")}
        assert reaches(beyond, "landscape") <= ({"landscape.store"} if path.stem == "base" else set())


@pytest.mark.parametrize("path", sorted((ROOT / "landscape" / "store").glob("*.py")), ids=lambda p: p.stem)
def test_the_store_knows_records_only(path: Path) -> None:
    assert not reaches(everything(path), "torch", "matplotlib", *(f"landscape.{name}" for name in NUMERICS))


@pytest.mark.parametrize("path", sorted((ROOT / "landscape" / "figures").glob("*.py")), ids=lambda p: p.stem)
def test_figures_are_drawn_from_records_only(path: Path) -> None:
    assert not reaches(everything(path), "torch", *(f"landscape.{name}" for name in NUMERICS))


@pytest.mark.parametrize("path", sorted((ROOT / "ncsam").rglob("*.py")), ids=lambda p: p.stem)
def test_ncsam_knows_nothing_of_the_command_line(path: Path) -> None:
    assert not reaches(everything(path), "landscape_cli", "click", "tqdm")


@pytest.mark.parametrize("name", ["optimizer", "perturbations", "noise_gradient", "schedule", "passes", "training"])
def test_training_writes_nothing(name: str) -> None:
    assert not reaches(everything(ROOT / "ncsam" / f"{name}.py"), "landscape.store", "h5py", "ncsam.run")


def test_torch_is_loaded_only_when_needed() -> None:
    code = (
        "import sys, landscape, ncsam, landscape.store, landscape_cli.main as m\n"
        "assert m.run(['--help']) == 0 and m.run(['--version']) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
