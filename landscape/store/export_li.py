"""Surfaces in the layout of Li et al., "Visualizing the Loss Landscape of Neural Nets" (2018), both directions.

Their files hold ``xcoordinates`` and, for a plane, ``ycoordinates``; ``train_loss`` and ``train_acc`` (percent), and
the same with ``test_``. A value still to be computed is -1. Although a plane has the shape (x, y), its values lie in
the order of ``numpy.meshgrid(x, y)``: y outside, x inside, which only shows where the two lengths differ. Our alpha
is their x, our beta their y.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from landscape.inputs import check_regular
from landscape.records import Line, Plane, Status
from landscape.store.arrays import read_raw
from landscape.store.errors import StoreError, one_line
from landscape.store.export import refuse_existing

MISSING = -1.0
PERCENT = 100.0


def write_li(surface: Line | Plane, path: str | Path, *, views: dict[str, str], overwrite: bool = False) -> Path:
    """Write a surface for the tools of Li et al.

    Args:
        surface: a line or a plane.
        path: the file to write.
        views: by their prefix, ``train`` or ``test``, the view to be stored under it.

    Raises:
        StoreError: the file exists and ``overwrite`` is false, or the surface has no such view.

    >>> import tempfile
    >>> line = Line(["mixed"], [0.0, 1.0], [[0.5, 0.7]], np.ones((1, 2), np.uint8), 1.0, 1.0, None)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_li(line, f"{folder}/surface.h5", views={"train": "mixed"})
    ...     read_li(path).loss
    array([[0.5, 0.7]])
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    known = surface.views.tolist()
    if not views or not set(views.values()) <= set(known) or not set(views) <= {"train", "test"}:
        raise StoreError(f"{path}: got views {views}; expected train= or test= one of {', '.join(known)}")
    with one_line(path, "writing", "check free space and permissions"), h5py.File(path, "w") as file:
        file["xcoordinates"] = np.asarray(surface.alphas, float)
        if isinstance(surface, Plane):
            file["ycoordinates"] = np.asarray(surface.betas, float)
        for prefix, view in views.items():
            index = known.index(view)
            ok = surface.status[index] == Status.OK
            file[f"{prefix}_loss"] = _theirs(np.where(ok, surface.loss[index], MISSING))
            if surface.accuracy is not None:
                file[f"{prefix}_acc"] = _theirs(np.where(ok, PERCENT * surface.accuracy[index], MISSING))
    return path


def is_li(path: str | Path) -> bool:
    """True for an HDF5 file with ``xcoordinates`` at its top.

    Raises:
        StoreError: it is one, and cannot be opened.
    """
    with one_line(path, "opening", "check the path"):
        if Path(path).exists():
            check_regular(path)
        if not h5py.is_hdf5(path):
            return False
        with h5py.File(path, "r", locking=False) as file:
            return "xcoordinates" in file


def read_li(path: str | Path) -> Line | Plane:
    """A surface from a file in the layout of Li et al.; its views are ``train`` and ``test``, as far as stored.

    What the file does not say is NaN: norms of the weights and of the directions, and their cosine.

    Raises:
        StoreError: the file is missing or damaged, or has another layout.
    """
    path = Path(path)
    with one_line(path, "reading", "expected xcoordinates, train_loss as the tool of Li et al. writes them"):
        if not path.exists():
            raise StoreError(f"{path}: there is no such file")
        check_regular(path)
        size = path.stat().st_size
        with h5py.File(path, "r", locking=False) as file:
            wanted = ("xcoordinates", "ycoordinates", "train_loss", "train_acc", "test_loss", "test_acc")
            links = {name: file.get(name, getlink=True) for name in wanted if name in file}
            hard = [name for name, link in links.items() if isinstance(link, h5py.HardLink)]
            arrays = {name: read_raw(file[name], size).astype(float) for name in hard}
    views = [prefix for prefix in ("train", "test") if f"{prefix}_loss" in arrays]
    if "xcoordinates" not in arrays or not views:
        raise StoreError(f"{path}: holds {sorted(arrays)}; expected xcoordinates and train_loss or test_loss")
    x, y = arrays["xcoordinates"], arrays.get("ycoordinates")
    shape = (len(x),) if y is None else (len(x), len(y))
    for name, values in arrays.items():
        if not name.endswith("coordinates") and values.shape != shape:
            raise StoreError(f"{path}: {name} has shape {values.shape}, expected {shape}")
    loss = np.stack([_ours(arrays[f"{view}_loss"]) for view in views])
    computed = loss != MISSING
    loss = np.where(computed, loss, np.nan)
    status = np.where(np.isfinite(loss), Status.OK, np.where(computed, Status.NONFINITE, Status.PENDING))
    accuracy = None
    if all(f"{view}_acc" in arrays for view in views):
        percent = np.stack([_ours(arrays[f"{view}_acc"]) for view in views])
        accuracy = np.where(percent == MISSING, np.nan, percent / PERCENT)
    if y is None:
        return Line(np.array(views), x, loss, status.astype(np.uint8), np.nan, np.nan, None, accuracy)
    norms = np.full(2, np.nan)
    return Plane(np.array(views), x, y, loss, status.astype(np.uint8), np.nan, norms, np.nan, None, accuracy)


def _theirs(values: np.ndarray) -> np.ndarray:
    """(alpha, beta) to their order; a line stays as it is."""
    return values if values.ndim == 1 else values.T.reshape(values.shape)


def _ours(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 1 else values.reshape(values.shape[::-1]).T
