"""The verdicts of a study as text."""

from __future__ import annotations

import textwrap

import click
import numpy as np

from ncsam.schema import Curves, Verdicts
from ncsam.theory import CONTRAST_RATE, manipulation_check, seeds_needed

from .tables import table

_TESTS = "Page's trend test for T6a, exact sign-flip test else, two-sided"
_COLOUR = {"supported": "green", "contradicted": "red", "undecided": "yellow"}


def show_verdicts(verdicts: Verdicts, curves: Curves) -> str:
    """The verdict table, what each number is, and what limits it."""
    rows = []
    for i, statement in enumerate(verdicts.statements):
        verdict = str(verdicts.verdict[i])
        shown = click.style(verdict, fg=_COLOUR[verdict.split()[0]])
        rows.append(
            [
                f"{statement}{'*' if verdicts.preliminary[i] else ''}",
                str(verdicts.text[i]),
                f"{verdicts.estimate[i]:+.3f}",
                f"[{verdicts.low[i]:+.3f}, {verdicts.high[i]:+.3f}]",
                f"{verdicts.smallest_effect[i]:+.2f}",
                f"{verdicts.p_value[i]:.3f}",
                f"{verdicts.p_holm[i]:.3f}",
                shown,
            ]
        )
    heads = ["", "statement", "effect", f"{verdicts.level:.0%} interval", "m", "p", "p (Holm)", "verdict"]
    lines = [table(heads, rows), ""]
    for i, statement in enumerate(verdicts.statements):
        note = f" {verdicts.note[i]}." if verdicts.note[i] else ""
        lines.append(_wrapped(f"{statement}: {verdicts.endpoint[i]}; {verdicts.pairs[i]} seeds.{note}"))
    memorises, seen = manipulation_check(curves)
    lines.append(
        _wrapped(f"Check: plain SGD at {CONTRAST_RATE:.0%} noise: {seen}{'' if memorises else ' - too little'}.")
    )
    lines.append(
        _wrapped(
            "Supported: the interval lies above m, the smallest relevant effect; contradicted: below it. "
            f"p: {_TESTS}. * preliminary: the sign-flip test needs {seeds_needed()} seeds to decide after "
            "Holm's correction."
        )
    )
    return "\n".join(lines)


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
    rows = []
    for a, arm in enumerate(curves.arms):
        cells = [str(arm)]
        for quantity, form in columns.values():
            q = quantities.index(quantity)
            mean, high = curves.mean[q, a, rate], curves.high[q, a, rate]
            cells.append(f"{form.format(mean)} ±{form.format(high - mean)}" if np.isfinite(mean) else "")
        rows.append(cells)
    spread = f"mean ± half of the {curves.level:.0%} interval over {len(curves.seeds)} seeds"
    title = f"All arms at {CONTRAST_RATE:.0%} noise, {spread}"
    return f"{title}\n{table(['arm', *columns], rows)}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, subsequent_indent="     ")
