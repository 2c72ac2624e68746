"""What the store costs: a commit of work in progress, and weights of 11 million parameters, beside raw disk speed.

    python benchmarks/store_commit.py [--folder DIR] [--out benchmarks/results/store_commit.json]

Product and peer (plain ``write`` and ``fsync`` of the same bytes) take turns in one process, after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from environment import environment, load_average

from landscape import store

COMMITS = 200
ROUNDS = 11
FIELDS: dict[str, Any] = {"loss": (6,), "accuracy": (6,), "gradient_norm": (), "history": (50,)}


def commits(folder: Path, rows_per_commit: int) -> dict[str, float]:
    """Milliseconds of a commit, and of the peer: a plain write of the same bytes with one fsync; medians with deciles.

    ``cpu_ms`` is the processor time of a commit, which other load on the machine does not inflate as it does the rest.
    """
    rounds = COMMITS + 10
    values = {name: np.ones(shape) for name, shape in FIELDS.items()}
    row_bytes = b"x" * int(sum(value.nbytes for value in values.values()) * rows_per_commit)
    commit, plain, cpu = [], [], []
    raw = os.open(folder / "raw", os.O_RDWR | os.O_CREAT)
    os.write(raw, b"x" * len(row_bytes) * COMMITS)
    os.fsync(raw)
    with store.PartFile.create(folder / "b.part", {}, rounds * rows_per_commit, FIELDS) as part:
        for number in range(rounds):
            for row in range(rows_per_commit):
                part.write(number * rows_per_commit + row, **values)
            begin, busy = time.perf_counter(), time.thread_time()
            part.commit()
            commit.append(time.perf_counter() - begin)
            cpu.append(time.thread_time() - busy)
            begin = time.perf_counter()
            os.pwrite(raw, row_bytes, (number % COMMITS) * len(row_bytes))
            os.fsync(raw)
            plain.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        part.read()
        reading = time.perf_counter() - begin
    os.close(raw)
    found = {"cpu_ms": median_ms(cpu[10:]), "read_ms_per_1000_rows": 1e6 * reading / (rounds * rows_per_commit)}
    for name, durations in (("commit", commit[10:]), ("plain_write_and_fsync", plain[10:])):
        deciles = statistics.quantiles(durations, n=10)
        found |= {f"{name}_ms": median_ms(durations)}
        found |= {f"{name}_ms_10th": 1e3 * deciles[0], f"{name}_ms_90th": 1e3 * deciles[-1]}
    return found


def median_ms(durations: list[float]) -> float:
    return 1e3 * statistics.median(durations)


def resnet18_like() -> dict[str, np.ndarray]:
    """Arrays with the sizes of a ResNet-18 for CIFAR: 11.2 million parameters, and its BatchNorm buffers."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"conv1.weight": rng.normal(size=(64, 3, 3, 3))}
    inputs = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            for conv in range(2):
                name = f"layer{stage + 1}.{block}"
                arrays[f"{name}.conv{conv + 1}.weight"] = rng.normal(size=(width, inputs, 3, 3))
                for kind in ("weight", "bias", "running_mean", "running_var"):
                    arrays[f"{name}.bn{conv + 1}.{kind}"] = rng.normal(size=width)
                inputs = width
    arrays["fc.weight"] = rng.normal(size=(10, 512))
    return {name: values.astype(np.float32) for name, values in arrays.items()}


def forget(path: Path) -> None:
    """Drop a file from the page cache, so that reading it means reading the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def weights(folder: Path) -> dict[str, float]:
    """Medians over the bytes of the weights; ``cold`` reads come from disk, ``warm`` from the page cache.

    MB/s with the slowest and fastest round, and the processor time of all threads in ms; ``store_of_raw`` are ratios of
    speeds in the same round, whose two halves meet much the same load of the machine.
    """
    arrays = resnet18_like()
    size = sum(values.nbytes for values in arrays.values())
    blob = b"".join(values.tobytes() for values in arrays.values())
    ours, raw = folder / "w.h5", folder / "w.bin"

    def write_ours() -> None:
        store.create(ours, kind="run", attrs={}, contents={"weights/last": arrays}, overwrite=True)

    def write_raw() -> None:
        with raw.with_suffix(".tmp").open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        raw.with_suffix(".tmp").replace(raw)

    def read_ours() -> None:
        with store.open(ours) as file:
            file.arrays("weights/last")

    calls = {"write_store": write_ours, "write_raw": write_raw}
    calls |= {f"read_{state}_{who}": read for state in ("cold", "warm") for who, read in
              (("store", read_ours), ("raw", raw.read_bytes))}  # fmt: skip
    durations: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            if "cold" in name:
                forget(ours)
                forget(raw)
            begin, busy = time.perf_counter(), time.process_time()
            call()
            durations[name].append(time.perf_counter() - begin)
            cpu[name].append(time.process_time() - busy)
    found = {"parameters_and_buffers": size / 4, "MB": size / 1e6}
    for name in calls:
        speeds = [size / 1e6 / duration for duration in durations[name][1:]]
        found |= {f"{name}_MB_per_s": statistics.median(speeds), f"{name}_MB_per_s_slowest": min(speeds)}
        found |= {f"{name}_MB_per_s_fastest": max(speeds), f"{name}_cpu_ms": median_ms(cpu[name][1:])}
    for name in ("write", "read_cold", "read_warm"):
        pairs = zip(durations[f"{name}_raw"][1:], durations[f"{name}_store"][1:], strict=True)
        ratios = [raw_s / ours_s for raw_s, ours_s in pairs]
        found |= {f"{name}_store_of_raw": statistics.median(ratios), f"{name}_store_of_raw_best": max(ratios)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "store_commit.json")
    options = parser.parse_args()
    before = load_average()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        results: dict[str, Any] = {}
        for rows in (1, 10, 100):
            (folder / str(rows)).mkdir()
            results[f"commit of {rows} rows"] = commits(folder / str(rows), rows)
        results["weights of 11 million parameters"] = weights(folder)
    libraries = {"hdf5": h5py.version.hdf5_version, "sqlite": sqlite3.sqlite_version}
    results["environment"] = environment("h5py", "numpy", **libraries, load_average_before=before)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
