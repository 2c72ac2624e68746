"""Large arrays are hashed in threads, read past HDF5 and pushed to disk early: none of it hides a fault."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from landscape import store
from landscape.store import arrays, disk, seal
from landscape.store.verifier import integrity
from tests.store.samples import LARGE, line, run_file, same


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store.create(tmp_path / "run.h5", kind="run", attrs={}, contents={"line": line(), "w": LARGE})
    return tmp_path / "run.h5"


def check_contents(path: Path) -> None:
    with store.open(path) as file:
        found = file.arrays("w")
        assert same(file.record("line"), line())  # type: ignore[arg-type]
    assert found.keys() == LARGE.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, LARGE[name])


def test_large_arrays_come_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BLOCK", 100_000)
    before = threading.active_count()
    check_contents(path)
    assert store.verify(path) == []
    assert threading.active_count() == before


def test_a_flipped_bit_in_a_large_array_is_found_by_all_who_look(path: Path) -> None:
    whole, rng = path.read_bytes(), random.Random(0)
    with store.open(path) as file:
        places = {
            name: (file.h5[f"w/{name}"].id.get_offset(), array.nbytes) for name, array in file.arrays("w").items()
        }
    for name, (offset, size) in places.items():
        flipped = bytearray(whole)
        flipped[offset + rng.randrange(min(size, 70_000))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(store.StoreError, match="do not match"):
            seal.check(path)
        assert integrity(path) == [f"/w/{name} does not match its SHA-256 in the manifest"]
        with store.open(path) as file, pytest.raises(store.StoreError, match=f"/w/{name[0]}?.* does not match"):
            file.arrays("w")


def test_every_byte_of_the_seal_counts(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    store.create(path, kind="run", attrs={}, contents={"w": {"large": LARGE["u1"]}})
    whole = path.read_bytes()
    begin = whole.rindex(b"\n", 0, whole.index(b" pieces sha256 ") - 3 * 82)
    assert len(whole) - begin > 3 * 82
    for place in range(begin, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(store.StoreError, match=r"seal|do not match"):
            seal.check(path)
    path.write_bytes(whole[:begin] + b"x" + whole[begin:])
    with pytest.raises(store.StoreError, match="do not match"):
        seal.check(path)


def test_what_fails_in_a_thread_is_raised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    before = threading.active_count()
    for replacement, message in ((failing, "Input/output error"), (lambda *_: 0, r"the file ends \d+ bytes before")):
        monkeypatch.setattr(os, "preadv", replacement)
        with store.open(path) as file, pytest.raises(store.StoreError, match=message):
            file.arrays("w")
    assert threading.active_count() == before


def test_a_reader_keeps_the_file_that_has_been_replaced(path: Path) -> None:
    with store.open(path) as file:
        store.create(path, kind="run", attrs={}, contents={"w": {"f4": np.zeros(90_000)}}, overwrite=True)
        np.testing.assert_array_equal(file.arrays("w")["f4"], LARGE["f4"])


def test_an_early_push_to_disk_that_fails_fails_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls, before = run_file(tmp_path / "run.h5"), [], threading.active_count()
    whole = path.read_bytes()

    def fail_once(descriptor: int) -> None:
        calls.append(threading.current_thread() is threading.main_thread())
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk, "PUSH", 100_000)
    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(store.StoreError, match="Input/output error"):
        store.add(path, "w", LARGE)
    assert calls == [False]
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
    store.add(path, "w", LARGE)
    assert calls[-2:] == [True, True]
    assert False in calls[1:]
    assert store.verify(path) == []
    assert threading.active_count() == before
