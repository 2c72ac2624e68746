"""The unpickler reads arrays of every age and runs nothing that a file asks for."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import pickletools
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncsam.data import human, npz, pickles

PROTOCOLS = range(6)
ARRAYS = [
    np.arange(12, dtype=np.uint8).reshape(3, 4),
    np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(1, 0, 2),
    np.arange(5, dtype=">i4"),
    np.array([True, False]),
    np.array(["ab", "c"]),
    np.array([b"ab", b"c"]),
    np.zeros((0, 3)),
    np.array(1.5),
]


def written(path: Path, content: Any, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_come_back_as_they_were(tmp_path: Path, array: np.ndarray, protocol: int) -> None:
    loaded = np.asarray(pickles.load(written(tmp_path / "a", array, protocol)))
    assert loaded.shape == array.shape
    assert loaded.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert np.array_equal(loaded, array)
    assert loaded.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_and_scalars_come_back_as_they_were(tmp_path: Path, protocol: int) -> None:
    content = {
        b"bytes": [1, -2.5, None, True],
        "text": ("ä", b"\x00\xff"),
        "sets": ({1, 2}, frozenset({3})),
        "scalars": [np.float32(0.5), np.int64(7)],
    }
    assert pickles.load(written(tmp_path / "a", content, protocol)) == content


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_a_batch_pickled_by_python_2_is_read(tmp_path: Path, module: str) -> None:
    def text(raw: bytes) -> bytes:
        return b"U" + bytes([len(raw)]) + raw  # the opcode of Python 2's str

    pixels = bytes([0, 1, 127, 128, 254, 255])
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff"
    reconstruct = b"c" + module.encode() + b"\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    array = reconstruct + b"(K\x01(K\x02K\x03t" + dtype + b"K\x00tb\x89" + text(pixels) + b"tb"
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"](K\x03K\x01eu.")
    loaded = pickles.load(path)
    assert loaded["labels"] == [3, 1]
    assert np.asarray(loaded["data"]).tolist() == [[0, 1, 127], [128, 254, 255]]


class Payload:
    """Asks the unpickler to call ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.request = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.request


def hostile(marker: Path) -> list[tuple[str, Payload]]:
    """Payloads that create ``marker`` when they run, and the name that gives each away."""
    code = f"open({str(marker)!r}, 'w').close()"
    return [
        (f"{os.system.__module__}.system", Payload(os.system, f"echo > '{marker}'")),
        ("builtins.exec", Payload(exec, code)),
        ("builtins.eval", Payload(eval, code)),
        ("io.open", Payload(open, str(marker), "w")),
        ("builtins.getattr", Payload(getattr, Payload(builtins.__import__, "os"), "system")),
        ("shutil.copyfile", Payload(shutil.copyfile, __file__, str(marker))),
        ("numpy.save", Payload(np.save, str(marker), np.zeros(1))),
    ]


KINDS_OF_HOSTILE = range(len(hostile(Path("nowhere"))))


def unveiled(name: str) -> str:
    """How Python 2's protocols spell a name of Python 3's ``builtins``."""
    return name.replace("builtins", "__builtin__")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", KINDS_OF_HOSTILE)
def test_a_hostile_pickle_is_refused_by_name_and_not_run(tmp_path: Path, kind: int, protocol: int) -> None:
    marker = tmp_path / "marker"
    name, payload = hostile(marker)[kind]
    innocent_looking = {"data": np.zeros(3, dtype=np.uint8), "labels": [payload]}
    path = written(tmp_path / "data_batch_1", innocent_looking, protocol)
    with pytest.raises(ValueError, match="refused, it asks for") as caught:
        pickles.load(path)
    assert name in str(caught.value) or unveiled(name) in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("kind", [0, 1, 2, 5])
def test_the_hostile_pickles_are_real(tmp_path: Path, kind: int) -> None:
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(hostile(marker)[kind][1]))
    assert marker.exists()


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def name(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL, whose attribute may be a dotted path."""
    return b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, attribute)) + b"\x93"


FORGED = {
    "a dotted path into an allowed module": (
        opcodes(name("numpy", "ndarray.__class__.__subclasses__"), b")R"),
        "numpy.ndarray.__class__.__subclasses__",
    ),
    "an allowed function's globals": (opcodes(name("_codecs", "encode.__globals__")), "_codecs.encode.__globals__"),
    "another codec": (opcodes(name("_codecs", "encode"), b"\x8c\x01a\x8c\x05rot13\x86R"), "encoded as 'rot13'"),
    "an array of objects": (opcodes(name("numpy", "dtype"), b"\x8c\x02O8\x85R"), "dtype 'O8'"),
    "a dtype by a long specification": (opcodes(name("numpy", "dtype"), b"\x8c\x05i4,O8\x85R"), "dtype 'i4,O8'"),
    "entries with fields": (
        opcodes(name("numpy", "dtype"), b"\x8c\x02i8\x85R", b"(K\x03\x8c\x01|N\x8c\x01a}K\x08K\x01K\x00tb"),
        "structured entries",
    ),
    "the extension registry": (opcodes(b"\x82\x01"), "unregistered extension code"),
    "a persistent object": (opcodes(b"\x8c\x01a\x51"), "persistent"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_pickle_is_refused(tmp_path: Path, case: str) -> None:
    content, message = FORGED[case]
    path = tmp_path / "forged"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"refused|not a readable") as caught:
        pickles.load(path)
    assert message in str(caught.value)


def test_arrays_of_objects_and_records_are_refused(tmp_path: Path) -> None:
    for array in (np.array([{}, None]), np.zeros(2, dtype=[("a", "i4")]), np.zeros(1, dtype="V4")):
        for protocol in PROTOCOLS:
            with pytest.raises(ValueError, match="refused, it asks for an array"):
                pickles.load(written(tmp_path / "a", array, protocol))


def test_an_array_shorter_than_its_shape_is_not_read(tmp_path: Path) -> None:
    whole = pickle.dumps(np.arange(200, dtype=np.uint8), protocol=4)
    assert bytes([75, 200]) in whole  # the size, as an opcode
    (tmp_path / "a").write_bytes(whole.replace(bytes([75, 200]), bytes([75, 250])))
    with pytest.raises(ValueError, match="not a readable file of arrays"):
        pickles.load(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"hello", b"\x80\x63.", bytes(range(256))])
def test_what_is_no_pickle_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable file of arrays") as caught:
        pickles.load(tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", range(0, 400, 23))
def test_a_truncated_pickle_is_an_error_of_one_line(tmp_path: Path, cut: int) -> None:
    whole = pickle.dumps({"data": np.arange(100), "labels": list(range(100))}, protocol=2)
    (tmp_path / "a").write_bytes(whole[:cut])
    with pytest.raises(ValueError, match="not a readable file of arrays"):
        pickles.load(tmp_path / "a")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    for read in (pickles.load, pickles.load_torch):
        with pytest.raises(FileNotFoundError, match="nothing"):
            read(tmp_path / "nothing")


# ---- torch files ----------------------------------------------------------------------------------------------------

COLUMNS = {
    "clean_label": np.array([0, 1, 2, 2]),
    "worse_label": np.array([0, 2, 2, 1]),
    "aggre_label": np.array([0, 1, 2, 1], dtype=np.int32),
}


def saved(path: Path, content: Any, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_human_labels_are_read(tmp_path: Path, legacy: bool) -> None:
    columns = human.read(saved(tmp_path / "CIFAR-10_human.pt", COLUMNS, legacy))
    assert set(columns) == set(COLUMNS)
    for key, column in columns.items():
        assert column.dtype == np.int64
        assert np.array_equal(column, COLUMNS[key])


def test_human_labels_saved_under_numpy_1_are_read(tmp_path: Path) -> None:
    modern, old = saved(tmp_path / "modern.pt", COLUMNS), tmp_path / "old.pt"
    with zipfile.ZipFile(modern) as source, zipfile.ZipFile(old, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry).replace(b"numpy._core", b"numpy.core"))
    with zipfile.ZipFile(old) as archive:
        assert any(b"numpy.core.multiarray" in archive.read(entry) for entry in archive.namelist())
    assert np.array_equal(human.read(old)["worse_label"], COLUMNS["worse_label"])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", KINDS_OF_HOSTILE)
def test_a_hostile_torch_file_is_refused_by_name_and_not_run(tmp_path: Path, kind: int, legacy: bool) -> None:
    marker = tmp_path / "marker"
    expected, payload = hostile(marker)[kind]
    path = saved(tmp_path / "human.pt", {**COLUMNS, "noisy_label": payload}, legacy)
    with pytest.raises(ValueError, match="refused, it asks for") as caught:
        human.read(path)
    assert expected.removeprefix("builtins.") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_allow_list_of_torch_is_as_it_was_afterwards(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    human.read(saved(tmp_path / "a.pt", COLUMNS))
    with pytest.raises(ValueError, match="refused"):
        pickles.load_torch(saved(tmp_path / "b.pt", {"x": Payload(os.getcwd)}))
    assert set(torch.serialization.get_safe_globals()) == set(before)  # torch keeps a set


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dict with the key 'clean_label', got a list"),
        ({"labels": np.zeros(2, dtype=int)}, r"got one with \['labels'\]"),
        ({"clean_label": np.zeros(2, dtype=int), "worse_label": np.zeros(3, dtype=int)}, "of shape \\(3,\\)"),
        ({"clean_label": np.zeros(2)}, "clean_label are float64 of shape"),
    ],
)
def test_files_of_other_content_are_no_human_labels(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        human.read(saved(tmp_path / "a.pt", content))


def test_a_file_that_torch_did_not_write_is_said_to_be_none(tmp_path: Path) -> None:
    for content, reason in ((b"not a torch file", "Unsupported operand 110"), (b"hello", "it is no pickle")):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.pt: not a readable file of arrays: {reason}$"):
            human.read(tmp_path / "a.pt")


def test_an_archive_of_torchscript_is_said_to_be_one(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in ("a/data.pkl", "a/code/__torch__.py"):
            archive.writestr(name, b"")
    with pytest.raises(ValueError, match=r"a\.pt: is a TorchScript archive, which holds code; .* save its state dict"):
        pickles.load_torch(tmp_path / "a.pt")
    assert not recwarn.list


def test_pickles_inside_npz_files_are_not_read(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    trap = np.empty(1, dtype=object)
    trap[0] = hostile(marker)[0][1]
    buffer = io.BytesIO()
    np.savez(buffer, train_x=trap, train_y=[0], test_x=trap, test_y=[0])
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"a\.npz: Object arrays cannot be loaded"):
        npz.load(tmp_path / "a.npz")
    assert not marker.exists()


def test_every_name_numpy_writes_is_on_the_list_and_each_is_answered_by_ours() -> None:
    for protocol in PROTOCOLS:
        for array in ARRAYS:
            operations = list(pickletools.genops(pickle.dumps(array, protocol=protocol)))
            for operation, argument, _ in operations:
                if operation.name == "GLOBAL":
                    assert argument.replace(" ", ".") in pickles.ALLOWED
    from_numpy = {k: v for k, v in pickles.ALLOWED.items() if k.startswith(("numpy", "_codecs"))}
    assert {answer.__module__ for answer in from_numpy.values()} == {"ncsam.data.pickles"}
