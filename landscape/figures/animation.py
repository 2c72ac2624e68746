"""Moving pictures of training paths: GIF by pillow, HTML for a browser, or MP4 where ffmpeg is installed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.animation import FFMpegWriter, HTMLWriter, PillowWriter
from matplotlib.axes import Axes

from landscape._files import replacing
from landscape.figures.data import DataFigure
from landscape.figures.interpolation import refined
from landscape.figures.levels import is_log, levels_between, norm_for
from landscape.figures.panels import table_of
from landscape.figures.style import STYLE, below, figure, laid_out
from landscape.figures.symbols import Records, Symbol, by_label, plain, symbols_of
from landscape.records import Plane, Trajectory

_WRITERS: Mapping[str, Any] = {
    "gif": PillowWriter,
    "html": partial(HTMLWriter, embed_frames=True, default_mode="loop"),
    "mp4": FFMpegWriter,
}
FORMATS = tuple(_WRITERS)
_LARGEST = 200.0  # MB of frames in an HTML page
_FRAMES = 60  # about as many as an animation has
_DPI = 100


class Animation:
    """Paths of training that are drawn frame by frame.

    Attributes:
        figure: what is drawn, at the last frame; with its numbers, as any figure.
        frames: number of frames.
    """

    def __init__(self, made: DataFigure, draw: Any, frames: int) -> None:
        self.figure, self.frames, self._draw = made, frames, draw

    def frame(self, number: int) -> DataFigure:
        """The figure as it is at a frame, from 0 on."""
        self._draw(number)
        return self.figure

    def save(self, stem: str | Path, formats: Sequence[str] = ("gif",), fps: int = 12) -> list[Path]:
        """Write ``stem.gif``, ``stem.html`` (frames within the page) or ``stem.mp4``, each in one step.

        Raises:
            ValueError: an unknown format, or ``mp4`` where ffmpeg is missing.
            OSError: the folder is missing or full.
        """
        for name in formats:
            if name not in FORMATS:
                raise ValueError(f"unknown format {name!r} of animations; known: {', '.join(FORMATS)}")
            if name == "mp4" and not FFMpegWriter.isAvailable():
                raise ValueError("mp4 needs the program ffmpeg, which is not installed; take gif or html")
        written = []
        with laid_out(self.figure):
            try:
                for name in formats:
                    path = Path(stem).with_name(f"{Path(stem).name}.{name}")
                    with TemporaryDirectory() as folder, replacing(path) as temporary:
                        whole = Path(folder) / path.name  # the writers go by the ending of the name
                        self._write(whole, _WRITERS[name](fps=fps))
                        shutil.copyfile(whole, temporary)
                    written.append(path)
            finally:
                self._draw(self.frames - 1)
        return written

    def _write(self, path: Path, writer: Any) -> None:
        with mpl.rc_context({"animation.embed_limit": _LARGEST}), writer.saving(self.figure, str(path), _DPI):
            for number in range(self.frames):
                self._draw(number)
                writer.grab_frame()


def animated(
    paths: Records[Trajectory],
    plane: Plane | None = None,
    view: str | None = None,
    *,
    names: tuple[str, str] = ("coordinate 1", "coordinate 2"),
    symbols: Mapping[str, Symbol] | None = None,
) -> Animation:
    """Paths of training in the coordinates of one plane, checkpoint by checkpoint, and their distances from it.

    The panel beside the plane shows how far each path is from it: what the picture leaves out.

    Args:
        paths: one, or several by label, all in the coordinates of the same plane; they move by epoch.
        plane: to draw them on, of which the contours are shown.
        view: of the plane.
        names: of the two axes.
        symbols: of labels that do not take one by their position.

    Raises:
        ValueError: a path has one coordinate, or they are in those of different planes.
    """
    found = by_label(paths)
    if any(path.coordinates.shape[1] < 2 for path in found.values()):
        raise ValueError("a path has one coordinate; only paths in a plane can be drawn moving")
    if len({tuple(path.hashes.tolist()) for path in found.values()}) > 1:
        raise ValueError("the paths are in the coordinates of different planes; project them on a common one")
    drawn = symbols_of(found, symbols)
    made, on, beside = _panels(plane, view, names, list(found.values()))
    epochs = np.unique(np.concatenate([path.epochs for path in found.values()]))
    epochs = epochs[np.unique(np.linspace(0, len(epochs) - 1, _FRAMES).astype(int))]
    with mpl.rc_context(STYLE):
        moving = []
        for label, path in found.items():
            x, y = path.coordinates[:, :2].T
            made.note(label=label, epoch=path.epochs, x=x, y=y, distance=path.distance)
            colour, name = (
                drawn[label].colour,
                plain(f"{drawn[label].name} ({path.explained:.0%} in the plane)".strip()),
            )
            on.plot(x, y, color=colour, linewidth=0.5, alpha=0.4)
            beside.plot(path.epochs, path.distance, color=colour, linewidth=0.5, alpha=0.4)
            (trail,) = on.plot(x, y, color=colour, linewidth=1.4, label=name)
            (head,) = on.plot(x[-1:], y[-1:], "o", color=colour, markeredgecolor="white", markersize=6)
            (dot,) = beside.plot(path.epochs[-1:], path.distance[-1:], "o", color=colour, markersize=4)
            moving.append((path, trail, head, dot))
        if plane is not None:
            made.clips[on] = {"left", "right", "bottom", "top"}
        title = on.set_title(f"epoch {epochs[-1]}")
        below(made, [on], columns=2)

    def draw(frame: int) -> list[Any]:
        for path, trail, head, dot in moving:
            past = max(1, int(np.searchsorted(path.epochs, epochs[frame], "right")))
            x, y = path.coordinates[:past, :2].T
            trail.set_data(x, y)
            head.set_data(x[-1:], y[-1:])
            dot.set_data(path.epochs[past - 1 : past], path.distance[past - 1 : past])
        title.set_text(f"epoch {epochs[frame]}")
        return [artist for _, *artists in moving for artist in artists]

    return Animation(made, draw, len(epochs))


def _panels(
    plane: Plane | None, view: str | None, names: tuple[str, str], paths: Sequence[Trajectory]
) -> tuple[DataFigure, Axes, Axes]:
    """A figure with the plane, or axes for the paths alone, and a panel for their distances."""
    made, axes = figure(1, 2, height=3.2)
    on, beside = axes[0]
    with mpl.rc_context(STYLE):
        on.set(xlabel=names[0], ylabel=names[1])
        if plane is None:
            on.set_aspect("equal", adjustable="datalim")
            on.margins(0.08)
        else:
            view = str(plane.views[0]) if view is None else view
            filled = _surface(on, plane, view)
            bar = made.colorbar(filled, ax=on, shrink=0.9, pad=0.02)
            bar.set_label(f"loss, view {view.replace('_', ' ')}")
            bar.set_ticks(filled.levels[::2])
            bar.minorticks_off()
            bar.ax.yaxis.set_major_formatter("{x:g}")
            on.set(xlim=plane.alphas[[0, -1]], ylim=plane.betas[[0, -1]], autoscale_on=False, aspect="equal")
        highest = max(float(path.distance.max()) for path in paths)
        beside.set(xlabel="epoch", ylabel="distance from the plane", ylim=(0, 1.08 * highest or 1.0))
    return made, on, beside


def _surface(ax: Axes, plane: Plane, view: str) -> Any:
    table = table_of(plane, view, "loss")
    finite = table[np.isfinite(table)]
    if not finite.size:
        raise ValueError(f"the plane holds no finite loss of view {view!r}")
    log = is_log(finite, "auto")
    kept = finite[finite > 0] if log else finite
    steps = levels_between(float(kept.min()), float(kept.max()), 16, log=log)
    shown = np.where(np.isfinite(table), np.clip(table, steps[0], steps[-1]), np.nan)
    a, b, fine = refined(plane.alphas, plane.betas, shown, log=log)
    ax.grid(False)
    ax.set_facecolor("0.85")
    filled = ax.contourf(a, b, np.ma.masked_invalid(fine).T, steps, norm=norm_for(steps, log=log), cmap="viridis")
    filled.set_edgecolor("face")  # or viewers of vector files show the seams
    return filled
