"""What is stored comes back equal, and what cannot be stored or trusted is refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
import xarray
from hypothesis import given, settings, strategies as st

from landscape import store
from landscape.records import Line, Record, parameter, variable
from landscape.store import layouts, manifest, schema
from tests.store.samples import WEIGHTS, every_kind, line, plane, run_file, same

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("record", every_kind(), ids=lambda record: record.kind)
def test_every_record_comes_back_bitwise(record: Record, tmp_path: Path) -> None:
    store.save(record, tmp_path / "r.h5")
    assert same(store.load(tmp_path / "r.h5"), record)


@settings(max_examples=40, deadline=None)
@given(value=json_values)
def test_attributes_come_back_equal(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("attributes") / "r.h5"
    store.create(path, kind="result", attrs={"value": value}, contents={})
    with store.open(path) as file:
        assert file.attrs["value"] == value
        assert type(file.attrs["value"]) is type(value)


@pytest.mark.parametrize("value", [{1, 2}, {3: "x"}, b"bytes", 1j, object()])
def test_attributes_that_would_not_come_back_are_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(store.StoreError, match=r"attribute 'value' is .*; expected str"):
        store.create(tmp_path / "r.h5", kind="result", attrs={"value": value}, contents={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "array",
    [
        *(np.arange(6).reshape(2, 3).astype(dtype) for dtype in ("?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", ">f4")),
        np.array(3.5, np.float16),
        np.array(True),
        np.array("prüfung"),
        np.array(["", "a", "日本"]),
        np.zeros((0, 3)),
        np.array([], dtype="U4"),
        np.array([np.nan, np.inf, -0.0]),
        np.random.default_rng(0).random((300, 70)),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_bare_arrays_come_back(array: np.ndarray, tmp_path: Path) -> None:
    store.create(tmp_path / "r.h5", kind="run", attrs={}, contents={"weights/last": {"layer.0.weight": array}})
    with store.open(tmp_path / "r.h5") as file:
        found = file.arrays("weights/last")["layer.0.weight"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype.kind == array.dtype.kind
    assert found.shape == array.shape
    if array.dtype.kind != "U":
        assert found.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("array", [np.array([1j]), np.array([None]), np.array(["a\0b"]), np.zeros(1, "M8[s]"), b"x"])
def test_arrays_of_other_types_are_refused(array: Any, tmp_path: Path) -> None:
    with pytest.raises(store.StoreError, match=r"/w/x holds|/w/x has dtype"):
        store.create(tmp_path / "r.h5", kind="run", attrs={}, contents={"w": {"x": array}})
    assert list(tmp_path.iterdir()) == []


def test_names_and_contents(tmp_path: Path) -> None:
    with store.open(run_file(tmp_path / "run.h5")) as file:
        assert file.names() == ["hessian/top3", "surface/plane", "training", "weights/last"]
        assert file.names("surface") == ["surface/plane"]
        assert file.names("surf") == []
        assert "weights/last" in file
        assert "weights" not in file
        assert file.arrays("weights/last").keys() == WEIGHTS.keys()
        with pytest.raises(store.StoreError, match=r"there is no 'surface/x'.* it holds hessian/top3, "):
            file.record("surface/x")
        with pytest.raises(store.StoreError, match=r"holds bare arrays, not a record"):
            file.record("weights/last")


REFUSALS = [
    ("add an existing name", lambda p: store.add(p, "training", line()), "'training' exists; choose"),
    ("add into a content", lambda p: store.add(p, "training/x", line()), "would lie inside the content 'training'"),
    ("add over a folder", lambda p: store.add(p, "surface", line(), overwrite=True), "'surface' holds other contents"),
    ("a bad path", lambda p: store.add(p, "/x", line()), "'/x' is not a group path"),
    ("a bad array name", lambda p: store.add(p, "x", {"a/b": 1.0}), "'a/b' cannot name an array"),
    ("an existing file", lambda p: store.save(line(), p), "the file exists; choose another name or pass overwrite"),
    ("several contents", store.load, "holds 4 results"),
    ("a missing file", lambda p: store.open(p.with_name("no.h5")), "there is no such file"),
    ("adding to a missing file", lambda p: store.add(p.with_name("no.h5"), "x", line()), "No such file"),
    (
        "another schema",
        lambda p: store.create(p.with_name("n.h5"), kind="run", attrs={"schema": 7}, contents={}),
        "leave them out",
    ),
]


@pytest.mark.parametrize(("call", "message"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_refusals_name_the_file_and_change_nothing(call: Any, message: str, tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    before = path.read_bytes()
    with pytest.raises(store.StoreError, match=message) as caught:
        call(path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_a_result_leaves_the_others(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    store.add(path, "surface/plane", line(seed=8), overwrite=True)
    with store.open(path) as file:
        assert same(file.record("surface/plane"), line(seed=8))
        assert same(file.record("training"), line(30))
    assert store.verify(path) == []


def test_xarray_shows_names_labels_and_units(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    with xarray.open_dataset(path, engine="h5netcdf", group="surface/plane") as found:
        expected = plane(12, 10)
        assert found.loss.dims == ("view", "alpha", "beta")
        np.testing.assert_array_equal(found.loss.sel(view="mixed"), expected.loss[0])
        np.testing.assert_array_equal(found.beta, expected.betas)
        assert found.loss.units == "loss"
        assert found.loss.long_name == "mean loss"
        xarray.testing.assert_equal(
            found[["loss", "accuracy"]].load().assign_coords(view=found.view.astype(str)),
            expected.to_xarray()[["loss", "accuracy"]],
        )
    with xarray.open_dataset(path, engine="h5netcdf", group="hessian/top3") as found:
        assert found["values"].dims == ("pair",)
        assert found.tol == 1e-6


EVERY_GROUP = """
import json, sys
import netCDF4, xarray

def paths(group, path=""):
    yield path
    for name in group.groups:
        yield from paths(group.groups[name], f"{path}/{name}")

with netCDF4.Dataset(sys.argv[1]) as file:
    groups = list(paths(file))
    for group in groups:
        for variable in (file[group] if group else file).variables.values():
            variable[...]
found = {}
for group in groups:
    with xarray.open_dataset(sys.argv[1], group=group or None) as data:  # the default engine
        data.load()
        found[group] = {"sizes": dict(data.sizes), "view": data.view.values.tolist() if "view" in data else []}
print(json.dumps(found))
"""


def test_netcdf_and_the_default_engine_of_xarray_read_every_group(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    store.add(path, "surface/later", line(seed=8))
    with store.open(path) as file:
        again = file.record("hessian/top3")
    store.add(path, "hessian/top3", again, overwrite=True)
    # In a process of its own, since netCDF4 brings an HDF5 of its own along.
    done = subprocess.run([sys.executable, "-c", EVERY_GROUP, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["/surface/plane"]["view"] == plane(12, 10).views.tolist()
    assert found["/surface/plane"]["sizes"].items() >= {"alpha": 12, "beta": 10}.items()
    assert found["/surface/later"]["view"] == line(seed=8).views.tolist()
    assert set(found) >= {"/training", "/hessian/top3"}
    assert store.verify(path) == []


def test_text_of_fixed_length_as_earlier_versions_stored_it_is_read(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        group = file["surface/plane"]
        text = np.array([view.encode() for view in plane(12, 10).views], h5py.string_dtype("utf-8", 9))
        attributes = dict(group["view"].attrs)
        del group["view"]
        group["view"] = text
        group["view"].attrs.update({key: attributes[key] for key in ("units", "long_name", "dimensions", "_Encoding")})
    with h5py.File(path) as file:
        assert schema.shape_of(file["surface/plane/view"], path.stat().st_size) == text.shape
        group = file["surface/plane"]
        digests = manifest.compute(file, path.stat().st_size)
        found = schema.read_array(group, "view", path.stat().st_size, digests)
    assert found.tolist() == plane(12, 10).views.tolist()


def test_text_of_no_bytes_is_refused(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        group = file["surface/plane"]
        del group["view"]
        group["view"] = np.zeros((2, 0), h5py.string_dtype("utf-8", 1))
        group["view"].attrs["dimensions"] = np.bytes_("view")
        size = path.stat().st_size
        with pytest.raises(store.StoreError, match="view is text of no bytes"):
            schema.read_array(group, "view", size, manifest.compute(file, size))


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump (Debian: hdf5-tools) is not installed")
@pytest.mark.parametrize("arguments", [["-n"], ["-H"], ["-d", "/surface/plane/loss"], ["-a", "/kind"]])
def test_h5dump_of_distributions_opens_the_files(arguments: list[str], tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    result = subprocess.run(["h5dump", *arguments, str(path)], capture_output=True, text=True, check=True)
    assert "error" not in result.stderr.lower()


def test_large_results_are_compressed_and_weights_are_not(tmp_path: Path) -> None:
    store.create(tmp_path / "r.h5", kind="run", attrs={}, contents={"p": plane(60, 60), "w": {"w": np.zeros(90_000)}})
    with h5py.File(tmp_path / "r.h5") as file:
        assert (file["p/loss"].compression, file["p/loss"].fletcher32) == ("gzip", True)
        assert file["p/view"].chunks is None
        assert file["w/w"].chunks is None


def test_reading_does_not_import_torch() -> None:
    code = "import sys, landscape.store; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_newer_schema_is_refused_naming_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "VERSION", 9)
    monkeypatch.setattr(schema, "MIGRATIONS", dict.fromkeys(range(1, 9), lambda file: None))
    store.save(line(), tmp_path / "r.h5")
    monkeypatch.undo()
    with pytest.raises(store.StoreError, match=r"it has schema 9, this package knows 1 and older; upgrade"):
        store.load(tmp_path / "r.h5")
    with pytest.raises(store.StoreError, match="schema 9"):
        store.add(tmp_path / "r.h5", "x", line())


@pytest.fixture
def version_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of a made-up schema 0, which named the content of a group ``type``, and the migration from there."""
    path = tmp_path / "old.h5"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "VERSION", 0)
        store.create(path, kind="result", attrs={"seed": 1}, contents={"result": line()})
        store.create(tmp_path / "blank.h5", kind="result", attrs={}, contents={})

    def rename(file: h5py.File) -> None:
        file.attrs["migrated"] = True
        file.move("result", "results")

    monkeypatch.setitem(schema.MIGRATIONS, 0, rename)
    return path


def test_an_older_file_is_brought_up_in_memory(version_0: Path) -> None:
    before = version_0.read_bytes()
    with store.open(version_0) as file:
        assert (file.version, file.attrs["schema"], file.attrs["migrated"]) == (0, 1, True)
        assert same(file.record("results"), line())
    assert version_0.read_bytes() == before


def test_adding_to_an_older_file_migrates_it(version_0: Path) -> None:
    store.add(version_0, "x", {"a": 1.0})
    with store.open(version_0) as file:
        assert (file.version, file.names()) == (1, ["results", "x"])
    assert store.verify(version_0) == []


def test_an_older_file_without_migration_is_refused(version_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(schema.MIGRATIONS, 0)
    with pytest.raises(store.StoreError, match="it has schema 0, and there is no migration from there to 1"):
        store.open(version_0)


def test_an_unknown_kind_of_record_says_what_to_import(tmp_path: Path) -> None:
    class Private(Record, kind="private"):
        value: float = variable(long_name="a value")

    store.save(Private(1.0), tmp_path / "r.h5")
    code = f"from landscape import store; store.load({str(tmp_path / 'r.h5')!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "unknown kind of record 'private'" in result.stderr
    assert "import the module that defines it" in result.stderr


def test_records_that_would_clash_with_the_layout_are_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True, eq=False)
    class Clash(Record):
        kind: ClassVar[str] = "clash"
        pair: np.ndarray = variable("pair", long_name="named like its dimension, without being its labels")
        units: str = parameter("a reserved name", "x")

    with pytest.raises(store.StoreError, match=r"Clash cannot be stored: rename its kind 'clash' or fields {'units'}"):
        store.save(Clash(np.zeros(2)), tmp_path / "r.h5")


def test_checked_writes_refuse_what_departs_from_declarations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        layouts._LAYOUTS, "run", layouts.Layout({"training": "line"}, {"weights/*": "arrays", "surface/*": "*"})
    )
    good = {"training": line(), "weights/last": WEIGHTS}
    store.create(tmp_path / "r.h5", kind="run", attrs={}, contents=good)
    store.add(tmp_path / "r.h5", "surface/p", plane())
    with pytest.raises(store.StoreError, match="training is missing"):
        store.create(tmp_path / "s.h5", kind="run", attrs={}, contents={})
    with pytest.raises(store.StoreError, match="odd has no place in a file of kind 'run'"):
        store.add(tmp_path / "r.h5", "odd", plane())
    broken = Line(["a"], [0.0, 1.0], [[0.5, np.nan]], np.ones((1, 2), np.uint8), 1.0, 1.0, None)
    with pytest.raises(store.StoreError, match="surface/x/loss has 1 values that are not finite, with status ok"):
        store.add(tmp_path / "r.h5", "surface/x", broken)
    coded = Line(["a"], [0.0], [[0.5]], np.full((1, 1), 9, np.uint8), 1.0, 1.0, None)
    with pytest.raises(store.StoreError, match=r"surface/x/status holds \[9\], which are no status codes"):
        store.add(tmp_path / "r.h5", "surface/x", coded)
    assert [path.name for path in tmp_path.iterdir()] == ["r.h5"]


def test_stamp_says_how_a_file_came_about(tmp_path: Path) -> None:
    with store.open(run_file(tmp_path / "r.h5")) as file:
        attrs = file.attrs
    assert attrs["config"] == {"lr": 0.1, "layers": [3, None]}
    assert attrs["command"] == ["landscape", "train"]
    assert attrs["versions"]["h5py"] == h5py.__version__
    assert attrs["created"].endswith("+00:00")
    assert {"seeds", "code_version", "data_hash", "device", "threads", "platform"} <= attrs.keys()


def test_arrays_that_may_be_none_may_be_left_out(tmp_path: Path) -> None:
    class Partial(Record, kind="partial"):
        value: np.ndarray = variable("x", long_name="there")
        seed: int | None = parameter("given, be it none")
        error: np.ndarray | None = variable("x", long_name="perhaps")

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'seed'"):
        Partial(np.zeros(2))
    with pytest.raises(TypeError, match="'value'"):
        Partial(seed=None)
    store.save(Partial(np.zeros(2), seed=None), tmp_path / "r.h5")
    assert store.load(tmp_path / "r.h5").error is None
    assert store.verify(tmp_path / "r.h5") == []
