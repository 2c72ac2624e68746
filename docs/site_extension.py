"""What the site needs beside Sphinx's own: formulas as MathML, fields of records, notebooks, tables for a phone."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup  # furo needs it, too
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from landscape.records import Record, Variable


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    app.config.html_math_renderer = "mathml"
    app.connect("autodoc-process-docstring", _keep_bars, priority=100)  # before napoleon makes fields of sections
    app.connect("autodoc-process-docstring", _add_fields)
    app.connect("html-page-context", _label_cells)
    app.connect("source-read", _show_notebook)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _show_notebook(app: Sphinx, page: str, source: list[str]) -> None:
    """Show an executed notebook in place of the page in ``docs/notebooks`` that has its name."""
    notebook = Path(app.srcdir).parent / f"{page}.ipynb"
    if page.startswith("notebooks/") and notebook.is_file():
        app.env.note_dependency(str(notebook))
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        source[0] = "\n\n".join(part for cell in cells for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> list[str]:
    """A cell of a notebook as Markdown: text, or code with its outputs."""
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [text.replace("](../docs/", "](../")]  # it is shown from docs/notebooks
    return [f"````python\n{text}\n````", *filter(None, map(_output, cell.get("outputs", ())))] if text else []


def _output(output: dict[str, Any]) -> str:
    """What a cell has printed or returned, as Markdown."""
    if output["output_type"] == "stream":
        return "" if output.get("name") == "stderr" else f"````text\n{''.join(output['text'])}\n````"
    data = {kind: "".join(value) for kind, value in output.get("data", {}).items()}
    if "image/png" in data:
        picture = data["image/png"].replace("\n", "")
        return f'````{{raw}} html\n<p><img alt="output of the cell" src="data:image/png;base64,{picture}"></p>\n````'
    if "text/html" in data:
        return f"````{{raw}} html\n{data['text/html']}\n````"
    return f"````text\n{data['text/plain']}\n````" if "text/plain" in data else ""


def _label_cells(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Tell each cell of a table its column's head, which the style sheet shows where rows do not fit beside it."""
    if "<table" not in context.get("body", ""):
        return
    soup = BeautifulSoup(context["body"], "html.parser")
    for table in soup.select("table.docutils"):
        heads = [head.get_text(" ", strip=True) for head in table.select("thead th")]
        for row in table.select("tbody tr"):
            for head, cell in zip(heads, row.find_all("td", recursive=False), strict=False):
                cell["data-head"] = head
    context["body"] = str(soup)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _keep_bars(_app: Sphinx, _what: str, _name: str, _found: Any, _options: Any, lines: list[str]) -> None:
    """``|λ|`` is a magnitude here, not the substitution that reStructuredText takes it for."""
    for i, line in enumerate(lines):
        if "|" in line and not line.lstrip().startswith((">>>", "...")):
            prose = re.split(r"(``.*?``|`.*?`)", line)
            lines[i] = "".join(part if k % 2 else part.replace("|", r"\|") for k, part in enumerate(prose))


def _add_fields(_app: Sphinx, _what: str, _name: str, found: Any, _options: Any, lines: list[str]) -> None:
    """Say of a record's fields what they declare: dimensions, units, long name."""
    if not (inspect.isclass(found) and issubclass(found, Record) and found.kind):
        return
    lines += ["", f"Stored as kind ``{found.kind}``.", "", "Fields:", ""]
    for name, declared in {**found.variables(), **found.parameters()}.items():
        shape = f" ({', '.join(declared.dims)})" if isinstance(declared, Variable) and declared.dims else ""
        units = f", in {declared.units}" if isinstance(declared, Variable) and declared.units != "1" else ""
        lines.append(f"* ``{name}``{shape} – {declared.long_name.replace('|', chr(92) + '|')}{units}")
    lines.append("")
