"""Surfaces to turn and zoom in a browser: one HTML file that needs no network (extra ``interactive``)."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from landscape._files import replacing
from landscape.figures.levels import Scale, is_log
from landscape.figures.panels import Quantity, table_of
from landscape.figures.symbols import COLOURS, Records, by_label
from landscape.records import Plane, Status


class PlotlyMissingError(ImportError):
    """plotly is not installed."""


def interactive(planes: Records[Plane], view: str, *, quantity: Quantity = "loss", scale: Scale = "auto") -> Any:
    """Planes as surfaces on one colour scale, one of them shown at a time; a ``plotly.graph_objects.Figure``.

    Buttons choose the plane. Points that are not finite are holes, interpolated ones are marked. Arguments as for
    :func:`landscape.figures.contours`.

    Raises:
        PlotlyMissingError: plotly is not installed.
        ValueError: a plane lacks the view or quantity, or none holds a finite value.
    """
    go = _plotly().graph_objects
    planes = by_label(planes)
    tables = {label: table_of(plane, view, quantity) for label, plane in planes.items()}
    finite = np.concatenate([t[np.isfinite(t)] for t in tables.values()])
    if not finite.size:
        raise ValueError(f"no plane holds a finite {quantity} of view {view!r}")
    log = quantity == "loss" and is_log(finite, scale)
    drawn = finite[finite > 0] if log else finite
    title = f"{quantity}, view {escape(view.replace('_', ' '))}"
    shown = {label: escape(label).replace("%{", "%&#123;") for label in planes}  # plotly takes markup in names
    traces, owners = [], []
    for label, plane in planes.items():
        table = np.where(np.isfinite(tables[label]), tables[label], np.nan)
        heights = np.clip(table, drawn.min(), None) if log else table
        traces.append(
            go.Surface(
                x=plane.alphas, y=plane.betas, z=heights.T, name=shown[label], colorscale="Viridis",
                surfacecolor=(np.log10(heights) if log else heights).T,
                cmin=float(np.log10(drawn.min()) if log else drawn.min()),
                cmax=float(np.log10(drawn.max()) if log else drawn.max()),
                colorbar={"title": f"log₁₀ {quantity}" if log else quantity},
                hovertemplate=f"α %{{x:.3g}}<br>β %{{y:.3g}}<br>{quantity} %{{z:.4g}}<extra>{shown[label]}</extra>",
            )
        )  # fmt: skip
        owners.append(label)
        i, j = np.nonzero(plane.status[plane.views.tolist().index(view)] == Status.INTERPOLATED)
        if len(i):
            traces.append(
                go.Scatter3d(
                    x=plane.alphas[i], y=plane.betas[j], z=heights[i, j], mode="markers", name="interpolated",
                    marker={"size": 1.5, "color": COLOURS[-1]}, hoverinfo="skip",
                )
            )  # fmt: skip
            owners.append(label)
    first = next(iter(planes))
    for trace, owner in zip(traces, owners, strict=True):
        trace.visible = owner == first
    buttons = [
        {"label": shown[label], "method": "update", "args": [{"visible": [owner == label for owner in owners]}]}
        for label in planes
    ]
    height = {"type": "log" if log else "linear", "title": {"text": quantity}, "exponentformat": "power"}
    return go.Figure(
        traces,
        layout={
            "title": {"text": title},
            "scene": {"xaxis": {"title": {"text": "α"}}, "yaxis": {"title": {"text": "β"}}, "zaxis": height},
            "updatemenus": [{"buttons": buttons, "x": 0.0, "xanchor": "left", "y": 1.0}] if len(planes) > 1 else [],
            "template": "plotly_white",
            "showlegend": False,
            "margin": {"l": 0, "r": 0, "b": 0, "t": 50},
        },
    )


def save_html(made: Any, path: str | Path) -> Path:
    """Write a plotly figure to one self-contained HTML file (about 5 MB: the library is inside), in one step.

    Raises:
        OSError: the folder is missing or full.
    """
    path = Path(path)
    text = made.to_html(include_plotlyjs=True, full_html=True, div_id="surface", config={"displaylogo": False})
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _plotly() -> Any:
    try:
        import plotly.graph_objects
    except ImportError as error:
        raise PlotlyMissingError(
            "interactive figures need plotly; install it with: pip install 'ncsam-landscape[interactive]'"
        ) from error
    return plotly
