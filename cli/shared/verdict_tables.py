"""The verdicts of a study as text, JSON, Markdown and LaTeX."""

from __future__ import annotations

import dataclasses
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import click
import numpy as np

from landscape.store.escaping import latex, latex_table, markdown, markdown_table
from ncsam.records import Curves, Secondary, Verdicts
from ncsam.study.arms import printed
from ncsam.study.by_measure import by_measure
from ncsam.study.effects import nanmean
from ncsam.study.radius_control import radius_control
from ncsam.study.statements import VERSIONS
from ncsam.study.table import Study
from ncsam.study.verdicts import CONTRAST_RATE, NOT_MEASURED

from .tables import table

_TESTS = "Page's trend test for T2 and T6a, exact sign-flip test else, two-sided"
_COLOUR = {"supported": "green", "contradicted": "red", "undecided": "yellow"}
HEADS = ("", "statement", "effect", "interval", "m", "p", "p (Holm)", "seeds", "runs", "verdict")


def verdict_rows(verdicts: Verdicts) -> list[list[str]]:
    """The table's cells, a row a statement; ``*`` marks what is preliminary, nothing what was not measured."""
    rows = []
    for i, statement in enumerate(verdicts.statements):
        measured = str(verdicts.verdict[i]) != NOT_MEASURED
        numbers = [
            f"{verdicts.estimate[i]:+.3f}",
            _interval(verdicts.low[i], verdicts.high[i]),
            f"{verdicts.smallest_effect[i]:+.2f}",
            _p(verdicts.p_value[i]),
            _p(verdicts.p_holm[i]),
            str(verdicts.pairs[i]),
            "" if verdicts.runs is None else str(verdicts.runs[i]),
        ]
        star = "*" if measured and verdicts.preliminary[i] else ""
        shown = numbers if measured else ["", "", numbers[2], "", "", "", ""]
        rows.append([f"{statement}{star}", str(verdicts.text[i]), *shown, str(verdicts.verdict[i])])
    return rows


def show_verdicts(verdicts: Verdicts) -> str:
    """The verdict table, what each number is, and what limits it."""
    rows = verdict_rows(verdicts)
    for row in rows:
        row[1] = textwrap.shorten(row[1], 52, placeholder="…")
        row[-1] = click.style(row[-1], fg=_COLOUR.get(row[-1].split()[0]))
    lines = [table(_heads(verdicts), rows), ""]
    for i, statement in enumerate(verdicts.statements):
        note = f" {_capital(str(verdicts.note[i]))}." if verdicts.note[i] else ""
        lines.append(_wrapped(f"{statement}: {verdicts.endpoint[i]}.{note}"))
    if verdicts.check:
        lines.append(_wrapped(f"Check: {verdicts.check}."))
    if verdicts.joint:
        lines.append(_wrapped(f"T3-T5 together: {verdicts.joint}."))
    lines.append(_wrapped(legend(verdicts)))
    return "\n".join(lines)


def show_one_run(study: Study) -> str:
    """Say once what the statements need beside a single run."""
    return "\n".join(
        [
            _wrapped(
                f"One run, {printed(study.arms[0])} at {study.rates[0]:.0%} noise, decides no statement: they compare "
                "SGD, SAM, NCSAM and controls at noise rates from 0 % on, over several seeds, by diagnostics, "
                "sharpness and Theorem 1 measured on each run. Train and measure such a study, then judge its folder:"
            ),
            "  landscape sweep --preset digits",
            "  landscape theory digits",
        ]
    )


def legend(verdicts: Verdicts) -> str:
    """Explain the columns."""
    return (
        "Supported: the interval lies above m, the smallest relevant effect; contradicted: below it. "
        f"p: {_TESTS}; Holm over {len(verdicts.statements)} endpoints. * preliminary: fewer than "
        f"{VERSIONS[verdicts.version].seeds_needed} seeds, with which the sign-flip test cannot decide by itself after "
        "Holm's correction."
    )


@dataclasses.dataclass(frozen=True)
class Shown:
    """A table with its title, to be printed as text, Markdown or LaTeX; without rows where words say it all."""

    title: str
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    def as_text(self) -> str:
        """Aligned columns below the title."""
        return f"{self.title}\n{table(self.heads, self.rows)}" if self.rows else self.title

    def as_markdown(self) -> str:
        """A Markdown table below the title."""
        cells = [map(markdown, row) for row in self.rows]
        found = f"\n\n{markdown_table([*map(markdown, self.heads)], cells)}" if self.rows else ""
        return f"{markdown(self.title)}{found}"

    def as_latex(self) -> str:
        """A LaTeX ``tabular`` (package ``booktabs``) below the title, which is a comment."""
        cells = [map(_tex, row) for row in self.rows]
        found = f"\n{latex_table('l' * len(self.heads), map(_tex, self.heads), cells)}" if self.rows else ""
        return f"% {latex(self.title)}{found}"


def secondary_table(secondary: Secondary) -> Shown:
    """Secondary endpoints, descriptive."""
    rows = [
        [str(s), str(q), f"{e:+.3f}", _interval(low, high), str(n)]
        for s, q, e, low, high, n in zip(
            secondary.statement, secondary.quantity, secondary.estimate, secondary.low, secondary.high,
            secondary.pairs, strict=True,
        )
    ]  # fmt: skip
    title = "Secondary endpoints: descriptive, intervals not adjusted, no verdict follows from them"
    return Shown(title, ["", "quantity", "mean", f"{secondary.level:.0%} interval", "seeds"], rows)


def measure_table(study: Study) -> Shown:
    """Verdicts on sharpness under every measure and view; words where none was measured."""
    try:
        found = by_measure(study)
    except ValueError as error:
        return Shown(f"By measure: {error}.")
    rows = []
    for i, statement in enumerate(found.statement):
        star = " (declared)" if found.primary[i] else ""
        numbers = [f"{found.estimate[i]:+.3f}", _interval(found.low[i], found.high[i]), str(found.pairs[i])]
        rows.append([str(statement), f"{found.measure[i]}{star}", str(found.view[i]), *numbers, str(found.verdict[i])])
    title = "Verdicts on sharpness by measure and view: descriptive, but for the measure that was declared"
    heads = ["", "measure", "view", "effect", f"{found.level:.0%} interval", "seeds", "alone it would say"]
    return Shown(title, heads, rows)


def measures_as_object(study: Study) -> list[dict[str, Any]]:
    """The same for JSON; empty where no sharpness was measured."""
    try:
        found = by_measure(study)
    except ValueError:
        return []
    return [
        {
            **{k: str(getattr(found, k)[i]) for k in ("statement", "measure", "view", "verdict")},
            **{k: _number(getattr(found, k)[i]) for k in ("estimate", "low", "high")},
            "seeds": int(found.pairs[i]),
            "primary": bool(found.primary[i]),
        }
        for i in range(len(found.statement))
    ]


def bound_table(study: Study) -> Shown | None:
    """Theorem 1's terms (0-1 error) against the noise rate, means over arms and seeds; None where not measured."""
    if not study.measured("bound/error/total"):
        return None
    names = ("alpha", "neighbourhood", "sampling", "complexity", "total", "risk")
    rows = []
    for rate in study.rates:
        means = [nanmean(study.over_arms(f"bound/error/{name}", rate).ravel()) for name in names]
        rows.append([f"{rate:.0%}", *("" if np.isnan(mean) else f"{float(mean):.4g}" for mean in means)])
    heads = ["noise", "α", "neighbourhood", "sampling", "complexity", "bound", "test risk"]
    title = "Theorem 1, 0-1 error, means over arms and seeds; 1 or more is vacuous, the maximum is a lower estimate"
    return Shown(title, heads, rows)


def radius_table(study: Study) -> Shown | None:
    """Each arm against SAM of the same realised ‖ε‖; None where that was not measured."""
    try:
        control = radius_control(study)
    except ValueError:
        return None
    rows = []
    for i in np.argsort(control.radius, kind="stable"):
        excess = _interval(control.excess_low[i], control.excess_high[i]) if np.isfinite(control.excess[i]) else ""
        shown = f"{control.excess[i]:+.3f}" if excess and control.family[i] not in ("SGD", "SAM") else ""
        half = control.accuracy_high[i] - control.accuracy[i]
        accuracy = f"{control.accuracy[i]:.1%}" + (f" ±{half:.1%}" if np.isfinite(half) else "")
        cells = [printed(str(control.arms[i])), str(control.family[i]), f"{control.radius[i]:.3f}", accuracy]
        rows.append([*cells, f"{control.memorisation[i]:.0%}", shown, excess if shown else ""])
    heads = ["arm", "", "realised ‖ε‖", "test accuracy", "memorised", "over SAM", f"{control.level:.0%} interval"]
    title = (
        f"Radius control at {control.rate:.0%} noise: accuracy over that of SAM (SGD at 0) with the same realised ‖ε‖"
    )
    return Shown(title, heads, rows)


def remarks(verdicts: Verdicts) -> list[str]:
    """List what must be known beside the table: notes on verdicts, the check, the joint reading, the columns."""
    noted = zip(verdicts.statements, verdicts.note, strict=True)
    found = [f"{statement}: {_capital(str(note))}." for statement, note in noted if note]
    found += [f"Check: {verdicts.check}."] if verdicts.check else []
    found += [f"T3-T5 together: {verdicts.joint}."] if verdicts.joint else []
    return [*found, legend(verdicts)]


def as_markdown(verdicts: Verdicts) -> str:
    """A Markdown table, with the remarks below."""
    rows = [map(markdown, row) for row in verdict_rows(verdicts)]
    said = "\n\n".join(map(markdown, remarks(verdicts)))
    return f"{markdown_table([markdown(head) for head in _heads(verdicts)], rows)}\n\n{said}"


def as_latex(verdicts: Verdicts) -> str:
    """A LaTeX ``tabular`` (package ``booktabs``), with the remarks as comments."""
    rows = [map(_tex, row) for row in verdict_rows(verdicts)]
    said = "\n".join(f"% {latex(text)}" for text in remarks(verdicts))
    return f"{said}\n{latex_table('llrrrrrrrl', map(_tex, _heads(verdicts)), rows)}"


def as_object(verdicts: Verdicts, secondary: Secondary) -> dict[str, Any]:
    """One study for JSON; numbers that are not there are null. The keys are promised."""
    statements = []
    for i, name in enumerate(verdicts.statements):
        statements.append(
            {
                "id": str(name),
                **{
                    k: str(getattr(verdicts, k)[i]) for k in ("text", "endpoint", "verdict", "note", "contrast", "test")
                },
                **{
                    k: _number(getattr(verdicts, k)[i])
                    for k in ("estimate", "low", "high", "smallest_effect", "p_value", "p_holm")
                },
                "seeds": int(verdicts.pairs[i]),
                "runs": 0 if verdicts.runs is None else int(verdicts.runs[i]),
                "preliminary": bool(verdicts.preliminary[i]),
            }
        )
    described = [
        {
            "statement": str(secondary.statement[i]),
            "quantity": str(secondary.quantity[i]),
            **{k: _number(getattr(secondary, k)[i]) for k in ("estimate", "low", "high")},
            "seeds": int(secondary.pairs[i]),
        }
        for i in range(len(secondary.statement))
    ]
    return {
        **{name: getattr(verdicts, name) for name in ("data", "model", "noise", "level", "family", "check", "joint")},
        "version": verdicts.version,
        "seeds_needed": VERSIONS[verdicts.version].seeds_needed,
        "statements": statements,
        "secondary": described,
    }


def show_comparison(curves: Curves) -> str:
    """Every arm at the contrast rate: accuracy beside the perturbation it really took."""
    rate = int(np.flatnonzero(np.isclose(curves.rates, CONTRAST_RATE))[0])
    quantities = curves.quantities.tolist()
    columns = {
        "test accuracy": ("test_accuracy", "{:.1%}"),
        "best epoch": ("best_accuracy", "{:.1%}"),
        "memorised": ("memorisation", "{:.0%}"),
        "mean ‖ε‖": ("perturbation_norm", "{:.3f}"),
        "mean s‖g*‖": ("compensation_norm", "{:.3f}"),
        "adaptive sharpness": ("adaptive/mixed", "{:.3f}"),
        "λ1": ("top_eigenvalue/mixed", "{:.1f}"),
    }
    columns = {head: column for head, column in columns.items() if column[0] in quantities}
    rows = []
    for a, arm in enumerate(curves.arms):
        cells = [printed(str(arm))]
        for quantity, form in columns.values():
            q = quantities.index(quantity)
            mean, high = curves.mean[q, a, rate], curves.high[q, a, rate]
            cells.append(f"{form.format(mean)} ±{form.format(high - mean)}" if np.isfinite(mean) else "")
        rows.append(cells)
    spread = f"mean ± half of the {curves.level:.0%} interval over {len(curves.seeds)} seeds"
    title = f"All arms at {CONTRAST_RATE:.0%} noise, {spread}"
    return f"{title}\n{table(['arm', *columns], rows)}"


def _heads(verdicts: Verdicts) -> tuple[str, ...]:
    return (*HEADS[:3], f"{verdicts.level:.0%} interval", *HEADS[4:])


def _interval(low: float, high: float) -> str:
    return f"[{low:+.3f}, {high:+.3f}]" if math.isfinite(low) else "one seed"


def _p(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "<0.001"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _tex(cell: str) -> str:
    minus = re.sub(r"(?<![\w-])-(?=\d)", "−", cell)
    return latex(minus).replace("*", r"$^*$")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, subsequent_indent="     ")
