"""A pivot table as LaTeX and Markdown, as papers print it."""

from __future__ import annotations

import re

import numpy as np

from landscape.store.escaping import latex, latex_table, markdown, markdown_table
from ncsam.study.pivot import Pivot


def axes(text: str) -> tuple[str, str]:
    """The two settings in ``arm×noise``, also spelled ``arm,noise``.

    Raises:
        ValueError: not two.

    >>> axes("arm×noise"), axes("noise, arm")
    (('arm', 'noise'), ('noise', 'arm'))
    """
    parts = [part.strip() for part in re.split("[×,*]", text)]
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"{text!r}, expected two settings such as arm×noise")
    return parts[0], parts[1]


def as_latex(table: Pivot) -> str:
    """A ``tabular`` (package ``booktabs``); the best of each column, and what its interval reaches, is bold."""
    heads = ["", *map(latex, table.column_names)]
    rows = [[latex(row), *_cells(table, i, r"\textbf{%s}", r" $\pm$ ")] for i, row in enumerate(table.row_names)]
    return f"% {latex(legend(table))}\n{latex_table('l' + 'c' * len(table.columns), heads, rows)}"


def as_markdown(table: Pivot) -> str:
    """A Markdown table with the legend below."""
    heads = ["", *map(markdown, table.column_names)]
    rows = [[markdown(row), *_cells(table, i, "**%s**", " ± ")] for i, row in enumerate(table.row_names)]
    return f"{markdown_table(heads, rows)}\n\n{legend(table)}"


def legend(table: Pivot) -> str:
    """Explain the numbers."""
    counts = table.count[table.count > 0]
    seeds = f"{counts.min()} to {counts.max()}" if counts.size else "no"
    of_column = [set(column[column > 0].tolist()) for column in table.count.T]
    if all(len(found) == 1 for found in of_column):
        columns: dict[int, list[str]] = {}
        for (n,), name in zip(of_column, table.column_names, strict=True):
            columns.setdefault(n, []).append(name)
        seeds = ", ".join(f"{n} ({', '.join(names)})" if len(columns) > 1 else f"{n}" for n, names in columns.items())
    bold = ". Bold: the best of each column, and what its 95 % interval reaches" if table.best.any() else ""
    unit = ", per cent" if table.is_share else ""
    return f"{table.endpoint.replace('_', ' ')}{unit}: mean ± standard deviation over {seeds} seeds{bold}."


def _cells(table: Pivot, row: int, bold: str, between: str) -> list[str]:
    return [_cell(table, row, column, bold, between) for column in range(len(table.columns))]


def _cell(table: Pivot, i: int, j: int, bold: str, between: str) -> str:
    mean, deviation = table.mean[i, j], table.deviation[i, j]
    if not np.isfinite(mean):
        return "--"
    scale, form = (100, "{:.2f}") if table.is_share else (1, "{:.4g}")
    text = form.format(scale * mean)
    shown = bold % text if table.best[i, j] else text
    return shown + (between + form.format(scale * deviation) if np.isfinite(deviation) else "")
