"""Moving pictures: every frame shows what was trained until then, files are whole, the figure stays as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from landscape import figures
from landscape.records import Plane, Trajectory
from tests.figure_checks import faults


def path(end: float = 1.0, count: int = 5) -> Trajectory:
    at = np.linspace(0, 1, count)
    return Trajectory(
        epochs=np.arange(count) * 2, coordinates=np.stack([end * at, at**2], axis=1), distance=1 - at, length=2 - at,
        explained=0.8, hashes=np.array(["a", "b"]),
    )  # fmt: skip


def plane() -> Plane:
    at = np.linspace(-2, 2, 9)
    loss = (0.1 + at[:, None] ** 2 + at**2)[None]
    return Plane(
        views=np.array(["mixed"]), alphas=at, betas=at, loss=loss, status=np.ones(loss.shape, np.uint8),
        weight_norm=1.0, direction_norms=np.ones(2), cosine=0.0, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize("on", [None, plane()], ids=["alone", "on a plane"])
def test_the_last_frame_is_a_sound_figure_and_earlier_ones_end_earlier(on: Plane | None) -> None:
    made = figures.animated({"sgd": path(), "sam": path(-1.0, 3)}, on)
    assert made.frames == 5
    assert faults(made.frame(4)) == []
    assert made.figure.points
    ax = made.figure.axes[0]
    trails = [line for line in ax.lines if line.get_linewidth() == 1.4]
    for frame, epoch, lengths in ((0, 0, (1, 1)), (2, 4, (3, 3)), (3, 6, (4, 3))):
        made.frame(frame)
        assert ax.get_title() == f"epoch {epoch}"
        assert tuple(len(line.get_xdata()) for line in trails) == lengths


def test_files_are_written_whole_and_the_settings_stay(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    made = figures.animated(path(count=3), names=("a", "b"))
    layout = made.figure.get_layout_engine()
    gif, page = made.save(tmp_path / "moving", ("gif", "html"), fps=5)
    assert made.figure.get_layout_engine() is layout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["moving.gif", "moving.html"]
    with Image.open(gif) as image:
        assert image.n_frames == 3
        assert image.info["duration"] == 200
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64") >= 3
    assert dict(mpl.rcParams) == before


def test_what_cannot_move_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = dataclasses.replace(path(), coordinates=np.zeros((5, 1)), hashes=np.array(["a"]))
    with pytest.raises(ValueError, match="one coordinate"):
        figures.animated(line)
    other = dataclasses.replace(path(), hashes=np.array(["a", "c"]))
    with pytest.raises(ValueError, match="different planes; project them on a common one"):
        figures.animated({"one": path(), "other": other})
    made = figures.animated(path(count=2))
    with pytest.raises(ValueError, match="unknown format 'avi'"):
        made.save(tmp_path / "x", ["avi"])
    monkeypatch.setattr("landscape.figures.animation.FFMpegWriter.isAvailable", lambda: False)
    with pytest.raises(ValueError, match="needs the program ffmpeg"):
        made.save(tmp_path / "x", ["gif", "mp4"])
    assert list(tmp_path.iterdir()) == []
