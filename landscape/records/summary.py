"""A summary of an objective: loss, curvature and sharpness in one table."""

from __future__ import annotations

import dataclasses

from landscape.records.curvature import EigenResult, TraceResult
from landscape.records.sharpness import Sharpness


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """Loss, leading eigenvalues, trace and sharpness of one objective; ``str`` gives the table.

    Attributes:
        loss: at the weights.
        eigenpairs: of the Hessian.
        trace: of the Hessian.
        sharpness: worst case over a ball.
    """

    loss: float
    eigenpairs: EigenResult
    trace: TraceResult
    sharpness: Sharpness

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Quantity, value, error, kind of error and Hessian products of every line of the table."""
        top, trace = self.eigenpairs, self.trace
        errors = top.residuals if top.errors is None else top.errors
        found = [("loss", f"{self.loss:.4g}", "", "", "")]
        for n, (value, error, converged) in enumerate(zip(top.values, errors, top.converged, strict=True)):
            kind = "bound" if converged else "bound; not converged"
            spent = str(int(top.matvecs)) if n == 0 else ""
            found.append((f"eigenvalue {n + 1}", f"{value:.4g}", f"{error:.2g}", kind, spent))
        kind = "standard error" if trace.stderr else "exact"
        found.append(("trace", f"{trace.value:.4g}", f"{trace.stderr:.2g}", kind, str(int(trace.matvecs))))
        name = f"SAM sharpness {self.sharpness.radius:g}"
        found.append((name, f"{self.sharpness.value:.4g}", "", "lower bound", ""))
        return found

    def __str__(self) -> str:
        heads = ("quantity", "value", "error", "kind of error", "products")
        rows = [heads, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        align = (str.ljust, str.rjust, str.rjust, str.ljust, str.rjust)
        return "\n".join(
            "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)).rstrip()
            for row in rows
        )

    def __repr__(self) -> str:
        return (
            f"Summary(loss {self.loss:.4g}, largest eigenvalue {self.eigenpairs.values.max():.4g}, "
            f"trace {self.trace.value:.4g} ± {self.trace.stderr:.2g}, sharpness ≥ {self.sharpness.value:.4g})"
        )
