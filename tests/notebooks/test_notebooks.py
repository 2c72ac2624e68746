"""The committed notebooks are small, clean and whole; their code runs, on settings smaller than those shown."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import Page

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
QUICK: dict[str, dict[str, Any]] = {
    "1_first_look": {"EPOCHS": 3, "POINTS": 5},
    "2_curvature": {"EPOCHS": 2, "K": 2, "PRODUCTS": 3},
    "3_surfaces": {"EPOCHS": 6, "POINTS": 3, "DRAWS": 2},
    "4_flatness_against_noise": {"EPOCHS": 2, "RATES": ("0.0", "0.4")},
    "5_paper_figures": {"EPOCHS": 2, "POINTS": 3},
    "6_basins_and_paths": {"EPOCHS": 2, "COARSE": 3, "POINTS": 4, "GRADIENTS": 3},
}

nbformat = pytest.importorskip("nbformat", reason="needs the extra 'notebook'")


def cells(path: Path, kind: str) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def settings_of(path: Path) -> dict[str, Any]:
    (cell,) = (cell for cell in cells(path, "code") if "settings" in cell.metadata.get("tags", ()))
    found: dict[str, Any] = {}
    exec(cell.source, found)
    return {name: value for name, value in found.items() if name.isupper()}


def test_there_are_six() -> None:
    assert [path.stem for path in PATHS] == sorted(QUICK)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_is_committed_is_executed_small_and_free_of_chance(path: Path) -> None:
    text, notebook = path.read_text(encoding="utf-8"), nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(text) < 400_000
    assert not re.search(r"/(home|root|tmp|work|Users)/|\"(iopub|shell)\.|widget-view|ename", text)
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert set(QUICK[path.stem]) <= set(settings_of(path))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_cell_of_code_is_introduced(path: Path) -> None:
    assert cells(path, "markdown")[0].source.startswith("# ")
    assert (
        "What to believe" in path.read_text(encoding="utf-8")
        or "Before you submit" in cells(path, "markdown")[-1].source
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_links_lead_to_pages_and_their_headings(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)]+)\)", cell.source):
            name, _, anchor = target.partition("#")
            assert name.startswith("../docs/"), "the site shows the notebook from docs/notebooks, and rewrites these"
            assert (FOLDER / name).is_file(), target
            assert not anchor or anchor in Page((FOLDER / name).resolve()).anchors, target


@pytest.mark.filterwarnings("ignore:projection keeps")
def test_the_first_notebooks_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("IPython", reason="needs the extra 'notebook'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tqdm.auto.tqdm", lambda items, **_: items)  # widgets need a kernel
    namespace: dict[str, Any] = {"__name__": "notebook"}
    for cell in cells(FOLDER / "1_first_look.ipynb", "code"):
        exec(compile(cell.source, "1_first_look.ipynb", "exec", dont_inherit=True), namespace)
        if "settings" in cell.metadata.get("tags", ()):
            namespace.update(QUICK["1_first_look"])
    assert (tmp_path / "first_look" / "ncsam.h5").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_executes_in_a_kernel(path: Path) -> None:
    pytest.importorskip("nbclient", reason="needs the extra 'notebook'")
    # In a process of its own, since Jupyter's loops and sockets warn at their leisure.
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import execute; from pathlib import Path\n"
        f"print(len(execute.execute(Path({str(path)!r}), {QUICK[path.stem]!r}).cells))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_executing_leaves_out_what_differs_by_chance() -> None:
    pytest.importorskip("nbclient", reason="needs the extra 'notebook'")
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    v4 = nbformat.v4
    cell = v4.new_code_cell("run", execution_count=7, metadata={"execution": {"iopub.execute_input": "2026"}})
    cell.outputs = [
        v4.new_output("stream", name="stderr", text="100%"),
        v4.new_output("stream", name="stdout", text="0.5"),
        v4.new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}}),
        v4.new_output("execute_result", data={"image/png": "aGk=", "text/plain": "<Figure 7x2>"}, execution_count=7),
    ]
    found = module.normalised(v4.new_notebook(cells=[cell], metadata={"widgets": {}}))
    assert [output.output_type for output in found.cells[0].outputs] == ["stream", "execute_result"]
    assert found.cells[0].outputs[1].execution_count == found.cells[0].execution_count == 1
    assert not found.cells[0].metadata
    assert "widgets" not in found.metadata
