"""Text in files for other programs: whatever a name holds, they take it as a name and run none of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = re.compile(r"\s*[=+\-@]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "|": "$|$", '"': r"\textquotedbl{}", **{character: f"\\{character}" for character in "&%$#_{}"},
    **{sign: rf"$\{name}$" for sign, name in zip("αβγδεκλρστ≤≥±×‖√", (
        "alpha", "beta", "gamma", "delta", "varepsilon", "kappa", "lambda", "rho", "sigma", "tau", "le", "ge", "pm",
        "times", "Vert", "surd",
    ), strict=True)},
    "−": "$-$", "ỹ": r"$\tilde{y}$",
}  # fmt: skip


def csv_cell(value: Any) -> Any:
    """A value for a CSV file: text that a spreadsheet would take for a formula gets an apostrophe before it.

    That is text that begins with ``=``, ``+``, ``-`` or ``@`` and is no number. Control characters, ends of lines among
    them, become spaces. Everything else stays as it is.

    >>> [csv_cell(value) for value in ("=1+1", "-cmd|x", "-0.5", "sam", -0.5)]
    ["'=1+1", "'-cmd|x", '-0.5', 'sam', -0.5]
    """
    if not isinstance(value, str):
        return value
    text = _CONTROL.sub(" ", value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def latex(text: str) -> str:
    r"""Text for LaTeX, on one line, with every special character escaped.

    >>> print(latex("50 % of\n\\input{x}"))
    50 \% of \textbackslash{}input\{x\}
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()) if character.isprintable())


def markdown(text: str) -> str:
    r"""Text for a cell of a Markdown table: one line, no markup, no cell of its own.

    >>> print(markdown("a|b <x> [y](z)"))
    a\|b \<x> [y]\(z)
    """
    return re.sub(r"([\\`|<*_]|(?<=\])\()", r"\\\1", " ".join(text.split()))


def latex_row(cells: Iterable[str]) -> str:
    """A row of a table in LaTeX, of cells that are LaTeX already."""
    return " & ".join(cells) + r" \\"


def latex_table(columns: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A ``tabular`` (package ``booktabs``) of cells that are LaTeX already."""
    begin = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", latex_row(heads), r"\midrule"]
    return "\n".join([*begin, *map(latex_row, rows), r"\bottomrule", r"\end{tabular}"])


def markdown_table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown, of cells that are Markdown already.

    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
