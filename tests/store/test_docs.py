"""docs/schema.md is enough: the checks it describes, written from it with h5py alone, confirm our files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import subprocess
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from landscape import store
from landscape.records import Status
from landscape.store import part_work
from landscape.store.attributes import write_attribute
from tests.store.samples import LARGE, plane, run_file


def sha256_of(found: h5py.Group | h5py.Dataset, apart: bool = True) -> str:
    """The entry of the manifest; without ``apart`` as earlier versions wrote it."""
    state = hashlib.sha256()

    def add(label: str, value: np.ndarray) -> None:
        shape = ",".join(map(str, value.shape))
        state.update(f"{label}\0{value.dtype.str}\0{shape}\0".encode())

    for name in sorted(set(found.attrs) - {"DIMENSION_LIST", "REFERENCE_LIST", "manifest"}):
        value = np.asarray(found.attrs[name]).astype(found.attrs.get_id(name).dtype)
        add(f"attribute {name}", value)
        state.update(value.tobytes())
    if isinstance(found, h5py.Dataset):
        if found.attrs.get("NAME", b"").startswith(b"This is a netCDF dimension but not a netCDF variable"):
            state.update(f"length\0{len(found)}\0".encode())
        else:
            value = np.asarray(found[()]).astype(found.dtype)
            add("data", value)
            if apart and found.chunks is None and value.nbytes >= 64 * 1024:
                return f"{state.hexdigest()} {hashlib.sha256(value.tobytes()).hexdigest()}"
            state.update(value.tobytes())
    return state.hexdigest()


def as_earlier(path: Path) -> Path:
    """Turn a file into what earlier versions wrote: one digest for each object, and one for all bytes."""
    with h5py.File(path, "r+") as file:
        entries = {"/": sha256_of(file)}
        file.visititems(lambda name, entry: entries.__setitem__(f"/{name}", sha256_of(entry, apart=False)))
        write_attribute(file, "manifest", json.dumps(entries))
    whole = path.read_bytes()
    path.write_bytes(whole + f"\nncsam-landscape sha256 {hashlib.sha256(whole).hexdigest()}\n".encode())
    return path


def by_hand(commands: str, folder: Path) -> list[str]:
    """What commands print that docs/schema.md gives for run.h5."""
    page = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    assert "".join(f"    {line}\n" for line in commands.splitlines()) in page
    done = subprocess.run(["sh", "-c", commands], cwd=folder, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_a_stranger_can_check_the_manifest(tmp_path: Path) -> None:
    store.add(run_file(tmp_path / "run.h5"), "weights/large", LARGE)
    with h5py.File(tmp_path / "run.h5") as file:
        manifest = json.loads(file.attrs["manifest"])
        found = {"/": sha256_of(file)}
        file.visititems(lambda name, entry: found.__setitem__(f"/{name}", sha256_of(entry)))
    assert found == manifest
    assert sum(" " in entry for entry in manifest.values()) == len(LARGE)


CHECK = """n=$(tail -n 1 run.h5 | cut -d ' ' -f 2)
tail -n $((n + 1)) run.h5 | head -n $n > pieces; sha256sum pieces; tail -n 1 run.h5
while read size digest; do head -c $size <&3 | sha256sum | grep -c $digest; done < pieces 3< run.h5"""


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_a_stranger_can_check_the_seal(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    store.add(path, "weights/large", LARGE)
    ours, sealed, *pieces = by_hand(CHECK, tmp_path)
    lines = (tmp_path / "pieces").read_text().splitlines()
    assert sealed == f"ncsam-landscape {len(lines)} pieces sha256 {ours.split()[0]}"
    assert pieces == ["1"] * len(lines)
    assert len(lines) > len(LARGE)
    covered = sum(int(line.split()[0]) for line in lines)
    assert covered + 1 + 82 * len(lines) + len(sealed) + 1 == path.stat().st_size
    flipped = bytearray(path.read_bytes())
    flipped[covered // 2] ^= 1
    path.write_bytes(flipped)
    assert sorted(by_hand(CHECK, tmp_path)[2:]) == ["0"] + ["1"] * (len(lines) - 1)


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump (Debian: hdf5-tools) is not installed")
def test_a_stranger_can_check_an_array(tmp_path: Path) -> None:
    store.create(tmp_path / "run.h5", kind="run", attrs={}, contents={"w": LARGE})
    subprocess.run("h5dump -d /w/f4 -b LE -o bytes run.h5", shell=True, cwd=tmp_path, capture_output=True, check=True)
    with store.open(tmp_path / "run.h5") as file:
        assert file.manifest()["/w/f4"].split()[1] == hashlib.sha256((tmp_path / "bytes").read_bytes()).hexdigest()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_files_of_earlier_versions_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    store.create(path, kind="run", attrs={}, contents={"w": LARGE, "plane": plane(12, 10)})
    as_earlier(path)
    ours, sealed = by_hand("head -c -89 run.h5 | sha256sum; tail -n 1 run.h5", tmp_path)
    assert sealed == f"ncsam-landscape sha256 {ours.split()[0]}"
    with store.open(path) as file:
        assert not any(" " in entry for entry in file.manifest().values())
        for name, array in file.arrays("w").items():
            np.testing.assert_array_equal(array, LARGE[name])
        place = file.h5["w/f4"].id.get_offset()
    assert store.verify(path) == []
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    assert "/w/f4 does not match its SHA-256 in the manifest" in store.verify(path)
    with store.open(path) as file, pytest.raises(store.StoreError, match="/w/f4 does not match"):
        file.arrays("w")
    path.write_bytes(whole)
    store.add(path, "more", LARGE)
    assert store.verify(path) == []


def test_a_stranger_can_read_a_record(tmp_path: Path) -> None:
    with h5py.File(run_file(tmp_path / "run.h5")) as file:
        group = file["surface/plane"]
        assert group.attrs["content"] == b"plane"
        assert group["loss"].attrs["dimensions"] == b"view alpha beta"
        assert [axis[0].name for axis in group["loss"].dims] == [
            f"/surface/plane/{d}" for d in ("view", "alpha", "beta")
        ]
        np.testing.assert_array_equal(group["loss"], plane(12, 10).loss)
        assert [b"".join(label).decode() for label in group["view"]] == ["mixed", "test"]


def test_a_stranger_can_read_a_part_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose rows lie in several records; here it is done with sizes that a test can afford."""
    monkeypatch.setattr(part_work, "PIECE", 40)
    path = store.part_path(tmp_path / "run.h5", "surface/line")
    fields = {"loss": (5,), "count": ((), "i4"), "flags": ((2, 3), "?")}
    wanted = {"loss": np.linspace(0, 1, 5), "count": 7, "flags": np.eye(2, 3, dtype=bool)}
    with store.PartFile.create(path, {"seed": 3}, rows=4, fields=fields) as part:
        part.write(1, **wanted)
        part.write(3, Status.FAILED, count=2)
    query = "SELECT status, count(*) FROM records GROUP BY status"
    page = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    assert f"    sqlite3 {path.name} '{query}'\n" in page
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (0x6E637370,)
        [[text, crc32]] = database.execute("SELECT text, crc32 FROM work").fetchall()
        records = database.execute("SELECT number, status, crc32, data FROM records").fetchall()
        assert database.execute(query).fetchall() == [(1, 2), (6, 2)]
    assert zlib.crc32(text.encode()) == crc32
    work = json.loads(text)
    assert (work["identity"], work["rows"]) == ({"seed": 3}, 4)
    found: dict[int, bytes] = {}
    for number, status, crc32, data in records:
        assert zlib.crc32(f"{number} {status} ".encode() + data) == crc32
        found[number // 2] = found.get(number // 2, b"") + data
    assert sorted(found) == [1, 3]
    kinds = np.dtype([(name, kind, tuple(shape)) for name, (shape, kind) in work["fields"].items()])
    row, failed = (np.frombuffer(found[number], kinds)[0] for number in (1, 3))
    for name, value in wanted.items():
        np.testing.assert_array_equal(row[name], value)
    assert np.isnan(failed["loss"]).all()
    assert (failed["count"], failed["flags"].any()) == (2, False)


def test_the_status_codes_are_listed() -> None:
    text = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    names = [status.name.lower().replace("_", " ") for status in sorted(Status)]
    assert f"| {' | '.join(names)} |" in text
