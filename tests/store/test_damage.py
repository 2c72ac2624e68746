"""Damaged and hostile files: found, named in one line, never a crash, a hang, or a large allocation."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from landscape import store
from landscape.records import TraceResult
from landscape.store import seal
from landscape.store.attributes import write_attribute
from landscape.store.verifier import integrity
from tests.store.samples import WEIGHTS, eigenpairs, line, run_file

LOOK_AT_ALL = """
import random, signal, sys
from pathlib import Path
from landscape import store
from landscape.store.verifier import integrity
from tests.store.test_damage import damage
source, target, first, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
whole = source.read_bytes()
for number in range(first, last):
    broken = damage(whole, random.Random(number))
    target.write_bytes(broken)
    signal.alarm(20)
    found, readable = [], 0
    if number % 2:
        found = integrity(target)
    else:
        try:
            with store.open(target) as file:
                for name in file.names():
                    try:
                        file.arrays(name) if name.startswith("weights") else file.record(name)
                        readable += 1
                    except store.StoreError as error:
                        assert "\\n" not in str(error)
        except store.StoreError as error:
            assert "\\n" not in str(error) and str(target) in str(error), error
    print(number, len(found), readable, flush=True)
lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would include what started this process
print(*[line for line in lines if line.startswith("VmHWM:")])
"""


def damage(whole: bytes, rng: random.Random) -> bytes:
    """Cut short, with bits flipped, a stretch zeroed, filled with noise, or with a piece copied elsewhere."""
    broken = bytearray(whole)
    start, length = rng.randrange(len(whole)), rng.choice([1, 8, 64, 512, 4096])
    stretch = slice(start, min(start + length, len(whole)))
    match rng.randrange(5):
        case 0:
            del broken[start:]
        case 1:
            for _ in range(rng.choice([1, 3, 30])):
                broken[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        case 2:
            broken[stretch] = bytes(stretch.stop - start)
        case 3:
            broken[stretch] = rng.randbytes(stretch.stop - start)
        case 4:
            piece = whole[stretch]
            place = rng.randrange(len(whole) - len(piece))
            broken[place : place + len(piece)] = piece
    return bytes(broken)


def long_trace() -> TraceResult:
    """A record that is stored in compressed chunks."""
    return TraceResult(value=0.0, stderr=1.0, matvecs=2, samples=np.linspace(0, 1, 1000), seed=1)


def in_another_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize("count", [pytest.param(5000, marks=pytest.mark.slow), 1000])
def test_damaged_files_give_an_error_never_a_crash_or_a_hang(count: int, tmp_path: Path) -> None:
    """Here HDF5 is let at the damaged bytes in the very process that looks at them, without the seal's protection."""
    source = tmp_path / "run.h5"
    contents = {"weights/last": {"w": WEIGHTS["conv.weight"]}, "hessian/top3": eigenpairs(), "training": long_trace()}
    store.create(source, kind="run", attrs={"seed": 1, "config": {"lr": [0.1]}}, contents=contents)
    result = in_another_process(LOOK_AT_ALL, source, tmp_path / "broken.h5", 0, count)
    assert result.returncode == 0, result.stdout[-200:] + result.stderr
    *lines, peak = result.stdout.splitlines()
    assert len(lines) == count
    assert int(peak.split()[1]) < 200_000  # KiB, on Linux; the files are some 50 kB
    whole = source.read_bytes()
    for number in range(count):
        broken = damage(whole, random.Random(number))
        if broken != whole:
            (tmp_path / "broken.h5").write_bytes(broken)
            with pytest.raises(store.StoreError):
                seal.check(tmp_path / "broken.h5")


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """200 random flips; the seal finds each, and the manifest names the object, or the bit is not part of any."""
    path = run_file(tmp_path / "run.h5")
    whole, rng, named = path.read_bytes(), random.Random(0), 0
    broken = tmp_path / "broken.h5"
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        broken.write_bytes(flipped)
        with pytest.raises(store.StoreError, match=r"seal|do not match"):
            seal.check(broken)
        named += bool(integrity(broken))
    print(f"200 flips found, {named} of them traced to an object")  # noqa: T201


def test_a_flipped_bit_in_any_data_set_is_traced_to_it(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    whole, rng, places = path.read_bytes(), random.Random(1), {}
    with h5py.File(path) as file:

        def locate(name: str, found: h5py.Group | h5py.Dataset) -> None:
            if isinstance(found, h5py.Dataset) and found.id.get_storage_size():
                if found.chunks:
                    info = found.id.get_chunk_info(0)
                    places[f"/{name}"] = (info.byte_offset, info.size)
                else:
                    places[f"/{name}"] = (found.id.get_offset(), found.id.get_storage_size())

        file.visititems(locate)
    assert len(places) > 20
    for name, (offset, size) in places.items():
        flipped = bytearray(whole)
        flipped[offset + rng.randrange(size)] ^= 1 << rng.randrange(8)
        (tmp_path / "broken.h5").write_bytes(flipped)
        assert any(problem.startswith(name) for problem in integrity(tmp_path / "broken.h5")), name
        with store.open(tmp_path / "broken.h5") as file:
            content = next(found for found in file.names() if name.startswith(f"/{found}/"))
            read = file.arrays if content == "weights/last" else file.record
            with pytest.raises(store.StoreError, match=name):
                read(content)


def test_verify_names_the_problem_and_the_object(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    assert store.verify(path) == []
    with h5py.File(path, "r+") as file:
        write_attribute(file["training/loss"], "units", "parsec")
        file["extra"] = 1
        del file["weights/last/conv.weight"]
    problems = store.verify(path)
    assert "the seal at its end is missing: it was cut short, or changed by another program" in problems
    assert "/training/loss does not match its SHA-256 in the manifest" in problems
    assert "/extra is not in the manifest" in problems
    assert "/weights/last/conv.weight is in the manifest but not in the file" in problems
    with pytest.raises(store.StoreError, match="the seal at its end is missing"):
        store.add(path, "x", line())


def test_verify_survives_what_hdf5_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_file(tmp_path / "run.h5")
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr("landscape.store.verifier._CHILD", "import os; os.abort()")
    assert any("HDF5 crashed on reading it (status -" in problem for problem in store.verify(path))
    monkeypatch.setattr("landscape.store.verifier._CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr("landscape.store.verifier.TIME_LIMIT", 0.5)
    assert any("HDF5 did not finish reading it within" in problem for problem in store.verify(path))


@pytest.mark.parametrize("name", ["missing.h5", "missing.part"])
def test_verify_of_nothing(name: str, tmp_path: Path) -> None:
    assert store.verify(tmp_path / name) == ["it cannot be read (No such file or directory); check the path"]


def hostile(change: Callable[[h5py.File, Path], None], folder: Path) -> Path:
    """A run file with something in it that the store would never write."""
    path = run_file(folder / "run.h5")
    with h5py.File(path, "r+") as file:
        change(file, folder)
    return path


def soft_link(file: h5py.File, folder: Path) -> None:
    file["weights/last/link"] = h5py.SoftLink("/training")


def external_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["x"] = 1
    file["weights/last/link"] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def external_data(file: h5py.File, folder: Path) -> None:
    (folder / "secret.bin").write_bytes(b"secret00")
    file["weights/last"].create_dataset("x", (1,), "f8", external=[(str(folder / "secret.bin"), 0, 8)])


def virtual_data(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((1,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (1,))
    file["weights/last"].create_virtual_dataset("x", layout)


def filter_plugin(file: h5py.File, folder: Path) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file["weights/last"].id, b"x", h5py.h5t.NATIVE_DOUBLE, space, properties)


def terabytes(file: h5py.File, folder: Path) -> None:
    file["weights/last"].create_dataset("x", (10**12,), "f8", chunks=(1000,), compression="gzip")


def huge_chunk(file: h5py.File, folder: Path) -> None:
    file["weights/last"].create_dataset("x", (2**28,), "u1", chunks=(2**28,), fletcher32=False)


def pickle(file: h5py.File, folder: Path) -> None:
    file["weights/last"].create_dataset("x", data=np.void(b"cos\nsystem\n"))


def variable_length(file: h5py.File, folder: Path) -> None:
    file["weights/last"].create_dataset("x", data=["a"], dtype=h5py.string_dtype())


def circle(file: h5py.File, folder: Path) -> None:
    file["weights/again"] = file["/"]


HOSTILE = {
    soft_link: "weights/last/link is a soft or external link, which is not followed",
    external_link: "weights/last/link is a soft or external link, which is not followed",
    external_data: "x keeps its data in another file, which is not followed",
    virtual_data: "x keeps its data in another file, which is not followed",
    filter_plugin: "x uses HDF5 filter 32001, which this store does not write or load",
    terabytes: "x claims 8000000000000 bytes",
    huge_chunk: "x claims 268435456 bytes",
    pickle: r"x has type \|V11, which this store does not write",
    variable_length: "x has type object, which this store does not write",
    circle: "is reached twice or nested too deep",
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_hostile_files_are_refused(change: Callable[[h5py.File, Path], None], message: str, tmp_path: Path) -> None:
    path = hostile(change, tmp_path)
    with pytest.raises(store.StoreError, match=message), store.open(path) as file:
        file.arrays("weights/last")


def test_a_filter_plugin_is_not_loaded(tmp_path: Path) -> None:
    """HDF5 opens every library in its plug-in folder to see what it offers; ours would leave a trace there."""
    path = hostile(filter_plugin, tmp_path)
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "libtrap.so").write_bytes(b"not a library; opening it is seen in the access time")
    os.utime(plugins / "libtrap.so", (1, 1))
    code = "import sys; from landscape import store\nwith store.open(sys.argv[1]) as f: f.arrays('weights/last')"
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "HDF5_PLUGIN_PATH": str(plugins)}
    command = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert "uses HDF5 filter 32001" in result.stderr
    assert (plugins / "libtrap.so").stat().st_atime == 1
