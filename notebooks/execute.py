"""Execute the notebooks anew and store them as they are committed: ``python notebooks/execute.py [NAME …]``.

Needs the extra ``notebook``. Each runs in an empty folder of its own. What differs from one execution to the next
without meaning anything (times, progress bars, versions of the kernel) is left out, so that a diff shows what changed.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
DPI = 90  # of figures in the stored outputs
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_SET_UP = (
    "from IPython import get_ipython\n"
    "from IPython.core.pylabtools import select_figure_formats\n"
    f"select_figure_formats(get_ipython(), {{'png'}}, dpi={DPI})"
)


def execute(path: Path, settings: Mapping[str, Any] | None = None) -> Any:
    """The notebook at ``path`` with its outputs, run in a folder that is gone afterwards.

    Args:
        settings: values in place of those that the cell tagged ``settings`` gives.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook: Any = nbformat.read(path, as_version=4)
    before = [nbformat.v4.new_code_cell(_SET_UP)]
    cells = list(notebook.cells)
    place = next(i for i, cell in enumerate(cells) if "settings" in cell.metadata.get("tags", ()))
    given = nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in (settings or {}).items()))
    notebook.cells = [*before, *cells[: place + 1], given, *cells[place + 1 :]]
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": folder}}, record_timing=False)
        client.execute()
    notebook.cells = cells
    return normalised(notebook)


def normalised(notebook: Any) -> Any:
    """The notebook without what execution leaves in it by chance; outputs and code stay."""
    notebook.metadata = nbformat.from_dict(METADATA)
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    for number, cell in enumerate(code, start=1):
        cell.execution_count = number
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        cell.outputs = [output for output in cell.outputs if not _passing(output)]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if "image/png" in output.get("data", {}):
                output.data["text/plain"] = "<Figure>"  # its own has the size in pixels
                output.metadata = nbformat.from_dict({})
            elif "text/html" in output.get("data", {}):
                output.data["text/plain"] = output.data["text/plain"].split("(")[0]  # the arrays are in the table
    return notebook


def _passing(output: Any) -> bool:
    """Whether it only shows progress."""
    stderr = output.output_type == "stream" and output.name == "stderr"
    return stderr or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def main(names: list[str]) -> None:
    """Execute those whose name begins as one of ``names`` does, all if none, and write them back."""
    os.environ.update(OMP_NUM_THREADS="1")
    for path in sorted(HERE.glob("*.ipynb")):
        if not names or any(path.stem.startswith(name) for name in names):
            before = _cpu_of_kernels()
            nbformat.write(execute(path), path)
            spent, size = _cpu_of_kernels() - before, path.stat().st_size / 1000
            sys.stderr.write(f"{path.name}: {spent:.0f} s of CPU time, {size:.0f} kB\n")


def _cpu_of_kernels() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
