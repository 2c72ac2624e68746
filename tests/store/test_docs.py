"""docs/schema.md is enough: the checks it describes, written from it with h5py alone, confirm our files."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from landscape.records import Status
from tests.store.samples import plane, run_file


def sha256_of(found: h5py.Group | h5py.Dataset) -> str:
    state = hashlib.sha256()

    def add(label: str, value: np.ndarray) -> None:
        shape = ",".join(map(str, value.shape))
        state.update(f"{label}\0{value.dtype.str}\0{shape}\0".encode() + value.tobytes())

    for name in sorted(set(found.attrs) - {"DIMENSION_LIST", "REFERENCE_LIST", "manifest"}):
        add(f"attribute {name}", np.asarray(found.attrs[name]).astype(found.attrs.get_id(name).dtype))
    if isinstance(found, h5py.Dataset):
        if found.attrs.get("NAME", b"").startswith(b"This is a netCDF dimension but not a netCDF variable"):
            state.update(f"length\0{len(found)}\0".encode())
        else:
            add("data", np.asarray(found[()]).astype(found.dtype))
    return state.hexdigest()


def test_a_stranger_can_check_the_manifest(tmp_path: Path) -> None:
    with h5py.File(run_file(tmp_path / "run.h5")) as file:
        manifest = json.loads(file.attrs["manifest"])
        found = {"/": sha256_of(file)}
        file.visititems(lambda name, entry: found.__setitem__(f"/{name}", sha256_of(entry)))
    assert found == manifest


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_a_stranger_can_check_the_seal(tmp_path: Path) -> None:
    run_file(tmp_path / "run.h5")
    command = "head -c -89 run.h5 | sha256sum; tail -n 1 run.h5"
    text = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    ours, sealed = text.splitlines()
    assert sealed == f"ncsam-landscape sha256 {ours.split()[0]}"
    assert command in (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")


def test_a_stranger_can_read_a_record(tmp_path: Path) -> None:
    with h5py.File(run_file(tmp_path / "run.h5")) as file:
        group = file["surface/plane"]
        assert group.attrs["content"] == b"plane"
        assert group["loss"].attrs["dimensions"] == b"view alpha beta"
        assert [axis[0].name for axis in group["loss"].dims] == [
            f"/surface/plane/{d}" for d in ("view", "alpha", "beta")
        ]
        np.testing.assert_array_equal(group["loss"], plane(12, 10).loss)
        assert [label.decode() for label in group["view"]] == ["mixed", "test"]


def test_the_status_codes_are_listed() -> None:
    text = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    names = [status.name.lower().replace("_", " ") for status in sorted(Status)]
    assert f"| {' | '.join(names)} |" in text
