"""Records and run files that the tests store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from landscape import store
from landscape.records import EigenResult, Line, Plane, Record, Sharpness, TraceResult

WEIGHTS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "bn.running_mean": np.linspace(-1, 1, 7),
    "bn.num_batches_tracked": np.int64(12),
}

LARGE = {
    **{kind: (np.arange(70_000).reshape(7, -1) % 60_000).astype(kind) for kind in ("?", "u1", "f2", "f4", ">f8", "i8")},
    "text": np.array(["prüf", "ja"] * 20_000),
}
"""Arrays of every sort of type, which are hashed apart and read past HDF5."""


def line(points: int = 5, seed: int | None = 3) -> Line:
    rng = np.random.default_rng(seed)
    return Line(
        views=np.array(["mixed", "prüf"]),
        alphas=np.linspace(-1, 1, points),
        loss=rng.normal(size=(2, points)),
        status=np.ones((2, points), np.uint8),
        weight_norm=2.5,
        direction_norm=1.0,
        seed=seed,
    )


def plane(rows: int = 40, columns: int = 30) -> Plane:
    rng = np.random.default_rng(rows)
    return Plane(
        views=np.array(["mixed", "test"]),
        alphas=np.linspace(-1, 1, rows),
        betas=np.linspace(-2, 2, columns),
        loss=rng.normal(size=(2, rows, columns)) ** 2,
        status=np.ones((2, rows, columns), np.uint8),
        weight_norm=2.5,
        direction_norms=np.array([1.0, 2.0]),
        cosine=0.1,
        seed=None,
        accuracy=rng.random((2, rows, columns)).astype(np.float32),
    )


def eigenpairs(vectors: bool = True) -> EigenResult:
    return EigenResult(
        values=np.array([9.0, 2.0, -1.0]),
        residuals=np.array([1e-9, 1e-7, 1e-3]),
        converged=np.array([True, True, False]),
        matvecs=17,
        which="LM",
        tol=1e-6,
        seed=0,
        vectors=np.eye(5, 3) if vectors else None,
    )


def every_kind() -> list[Record]:
    return [
        line(),
        plane(),
        eigenpairs(),
        eigenpairs(vectors=False),
        TraceResult(value=3.0, stderr=0.1, matvecs=2, samples=np.array([2.9, 3.1]), seed=1),
        Sharpness(value=0.5, loss=1.0, measure="sam", radius=0.05, steps=1),
    ]


def run_file(path: Path) -> Path:
    """A finished run file with a bit of everything."""
    store.create(
        path,
        kind="run",
        attrs=store.stamp(
            config={"lr": 0.1, "layers": [3, None]},
            seeds={"order": 1},
            data_hash="0f",
            command=["landscape", "train"],
            device="cpu",
        ),
        contents={"training": line(30), "weights/last": WEIGHTS, "hessian/top3": eigenpairs()},
    )
    store.add(path, "surface/plane", plane(12, 10))
    return path


def same(first: Record, second: Record) -> bool:
    """Equal in every field, bit for bit."""
    if type(first) is not type(second):
        return False
    for name in first.variables():
        a, b = getattr(first, name), getattr(second, name)
        if (a is None) != (b is None):
            return False
        if a is not None and (np.asarray(a).tobytes() != np.asarray(b).tobytes() or np.shape(a) != np.shape(b)):
            return False
    return all(getattr(first, name) == getattr(second, name) for name in first.parameters())
