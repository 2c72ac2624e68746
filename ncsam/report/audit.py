"""An audit as one HTML page, and as plain data for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from landscape import figures
from landscape._version import __version__
from landscape.figures.data import DataFigure
from landscape.records import Status
from landscape.records.base import with_error
from ncsam.measurements.audit import Audit
from ncsam.records import AuditTable
from ncsam.report.html import LARGEST_DATA, Picture, as_csv, environment, image, link, style

_TITLES = {
    "line": ("Loss along random lines", "Filter-normalised random directions (Li et al. 2018, arXiv 1712.09913): the "
             "median over the draws, and a band from their tenth to their ninetieth percentile; 1 is the norm of the "
             "weights' filters. The null shows what the same picture makes of weights that were not trained."),
    "plane": ("Loss over a random plane", "Two filter-normalised random directions, the same draw for all."),
    "barrier": ("The straight way to the reference", "Dashed: the straight line between the ends' losses; dotted: the "
                "barrier over it, the highest of the points that were measured."),
    "density": ("Spectral density of the Hessian", "By stochastic Lanczos quadrature; negative eigenvalues are on the "
                "left of 0."),
}  # fmt: skip
_DRAWN = {
    "line": figures.bands,
    "plane": figures.contours,
    "barrier": figures.connections,
    "density": figures.densities,
}


@dataclasses.dataclass(frozen=True)
class AuditPicture(Picture):
    """A figure of an audit, and whether it may be trusted."""

    width: float
    against: list[str]
    findings: list[dict[str, Any]]


def page(audit: Audit, *, title: str | None = None, command: str = "") -> str:
    """The audit as one HTML page that needs nothing else: no script, nothing loaded from elsewhere.

    Args:
        title: of the page.
        command: that gives the same numbers again.
    """
    table = audit.table
    return (
        environment()
        .get_template("audit.html.jinja")
        .render(
            title=title or f"Audit of {', '.join(o['label'] for o in table.origins if not o['null'])}",
            style=style(),
            table=table,
            rows=rows(table),
            pictures=pictures(audit),
            checked=[f for f in table.trust if f["picture"] in ("losses", "λ₁")],
            verdicts=verdicts(table),
            plan=table.plan,
            budget=_budget(table.plan),
            seconds=[f"{s:.0f} s" for s in table.seconds],
            command=command,
            csv=link(as_csv(numbers(table)), "text/csv"),
            version=__version__,
        )
    )


def rows(table: AuditTable) -> list[list[str]]:
    """Quantity, view and samples, a cell for each checkpoint, and the kind of error."""
    found = []
    for j, quantity in enumerate(table.quantities.tolist()):
        measured_on = f"{table.views[j]}, {table.samples[j]}" if table.views[j] else ""
        cells = [_cell(table, i, j) for i in range(len(table.checkpoints))]
        found.append([quantity, measured_on.replace("_", " "), *cells, str(table.kinds[j])])
    return found


def numbers(table: AuditTable) -> list[dict[str, Any]]:
    """One row for each value."""
    return [
        {
            "checkpoint": checkpoint,
            "quantity": quantity,
            "value": float(table.value[i, j]),
            "error": float(table.error[i, j]),
            "kind_of_error": str(table.kinds[j]),
            "status": Status(int(table.status[i, j])).name.lower(),
            "view": str(table.views[j]),
            "samples": int(table.samples[j]),
        }
        for i, checkpoint in enumerate(table.checkpoints.tolist())
        for j, quantity in enumerate(table.quantities.tolist())
        if table.status[i, j] != Status.PENDING
    ]


def as_data(audit: Audit) -> dict[str, Any]:
    """The audit without its pictures, as JSON holds it."""
    table = audit.table
    return {
        "kind": table.kind,
        "checkpoints": table.origins,
        "view": table.view,
        "values": numbers(table),
        "trust": {"verdicts": verdicts(table), "findings": table.trust},
        "left_out": table.left_out,
        "plan": table.plan,
        "seconds": dict(zip(table.checkpoints.tolist(), table.seconds.tolist(), strict=True)),
    }


def verdicts(table: AuditTable) -> dict[str, list[str]]:
    """What speaks against each picture; nothing where it may be trusted."""
    found = {}
    for picture in dict.fromkeys(f["picture"] for f in table.trust):
        against = [f for f in table.trust if f["picture"] == picture and not f["ok"]]
        found[picture] = list(dict.fromkeys(_in_short(f) for f in against))
    return found


def pictures(audit: Audit) -> list[AuditPicture]:
    """The figures that the records allow."""
    found = []
    judged = verdicts(audit.table)
    for what, draw in _DRAWN.items():
        if records := audit.by_label(what):
            drawn: DataFigure = draw(records)  # type: ignore[operator]
            data = as_csv(drawn.points)
            title, caption = _TITLES[what]
            found.append(
                AuditPicture(
                    anchor=what,
                    title=title,
                    caption=caption,
                    image=image(drawn),
                    data=link(data, "text/csv") if len(data) <= LARGEST_DATA else "",
                    width=drawn.get_figwidth(),
                    against=judged.get(what, []),
                    findings=[f for f in audit.table.trust if f["picture"] == what],
                )
            )
    return found


def _cell(table: AuditTable, i: int, j: int) -> str:
    value, error, status = float(table.value[i, j]), float(table.error[i, j]), Status(int(table.status[i, j]))
    if status == Status.PENDING:
        return "–"
    if status == Status.NONFINITE:
        return "not finite"
    if table.kinds[j] == "lower bound":
        return f"≥ {value:.4g}"
    told = f"{value:.4g}" if table.kinds[j] == "none" or not error else with_error(value, error)
    return f"{told} (not converged)" if status == Status.NOT_CONVERGED else told


def _in_short(finding: Mapping[str, Any]) -> str:
    unknown = " (unknown)" if finding["ok"] is None else ""
    return f"{finding['checkpoint']}: {finding['question']}{unknown} {finding['answer']}"


def _budget(plan: Mapping[str, Any]) -> str:
    allowed, work = f"{plan['allowed']:,}".replace(",", " "), f"{plan['work']:,}".replace(",", " ")
    told = f"{work} forward passes of one sample, of {allowed} that were allowed"
    if plan["budget_seconds"] is None:
        return told
    speed = 1000 * plan["seconds_a_sample"]
    return (
        f"{plan['budget_seconds']:g} s at {speed:.3g} ms a pass of one sample: {told}" if math.isfinite(speed) else told
    )
