"""Hostile input: whatever a file, a name or a number says, the end is one line, soon, in little memory, and no trace.

Every case makes its files in a folder of its own and ends with status 2 before any work, or with 1 where only work
could tell. Memory is what Python and NumPy allocate; the last test asks the system instead, in a process with a bound.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from landscape import store
from landscape.store import manifest, seal
from landscape.store.disk import Disk
from landscape_cli.main import run as landscape

MEMORY = 256 << 20  # bytes that may be allocated at a time
SECONDS = 30.0  # far above what any of them takes, on a busy machine too

Make = Callable[[Path], None]
CASES: list[tuple[str, list[str], str, int, Make]] = []


def case(name: str, arguments: str, told: str, status: int = 2) -> Callable[[Make], Make]:
    """A case made by a function: the command, what its one line says, and its exit status."""

    def note(make: Make) -> Make:
        CASES.append((name, arguments.split(), told, status, make))
        return make

    return note


def nothing(_here: Path) -> None:
    """No file is needed."""


def given(name: str, arguments: list[str], told: str, status: int = 2, make: Make = nothing) -> None:
    CASES.append((name, arguments, told, status, make))


TRAIN = "train --out new.h5 --epochs 1 --quiet"


def holding(name: str, content: bytes) -> Make:
    """A file with that content."""
    return lambda here: (here / name).write_bytes(content) and None


# --- what is no regular file


def pipe(name: str) -> Make:
    return lambda here: os.mkfifo(here / name)


for what, arguments in {
    "npz": f"{TRAIN} --data npz:pipe",
    "matrix": f"{TRAIN} --noise matrix:pipe",
    "npy matrix": f"{TRAIN} --noise matrix:pipe.npy",
    "human": f"{TRAIN} --noise human:pipe,worse_label",
    "labels": f"{TRAIN} --noise labels:pipe.npy",
    "config": f"{TRAIN} --config pipe",
    "sweep": "sweep --config pipe --dry-run",
    "run": "hessian pipe",
    "study": "theory pipe",
    "report": "report pipe --out x.html",
    "inspect": "inspect pipe",
    "figure": "figure pipe --out figures",
    "export": "export pipe --format csv",
    "way": "surface run.h5 --directions between:pipe",
    "log": f"{TRAIN} --log pipe",
    "log resumed": f"{TRAIN} --log pipe --resume",
    "output": "train --epochs 1 --out pipe --overwrite",
    "report output": "report run.h5 --out pipe --overwrite",
    "export output": "export run.h5 training --format csv --out pipe --overwrite",
}.items():  # fmt: skip
    given(
        f"a pipe as {what}",
        arguments.split(),
        "is a named pipe, expected a regular file",
        make=pipe("pipe.npy" if "npy" in arguments else "pipe"),
    )
given("a device as data", f"{TRAIN} --data npz:/dev/zero".split(), "/dev/zero: is a device")
given("a device as config", f"{TRAIN} --config /dev/zero".split(), "/dev/zero: is a device")
given("a device as output", ["train", "--epochs", "1", "--out", "/dev/null", "--overwrite"], "/dev/null: is a device")
given("a folder as config", f"{TRAIN} --config .".split(), "s a directory")
given("a pipe to verify", ["verify", "pipe"], "is a named pipe", 1, pipe("pipe"))


@case("a pipe among images", f"{TRAIN} --data folder:images", "is a named pipe")
def _(here: Path) -> None:
    images(here, 8)
    os.mkfifo(here / "images/train/a/0.png")  # the first one


@case("a pipe as CIFAR", f"{TRAIN} --data cifar10:data", "data_batch_1")
def _(here: Path) -> None:
    (here / "data").mkdir()
    os.mkfifo(here / "data" / "data_batch_1")


# --- archives and headers that claim


def arrays(**changes: Any) -> dict[str, Any]:
    x, y = np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1])
    return {"train_x": x, "train_y": y, "test_x": x, "test_y": y, **changes}


def npz(here: Path, **changes: Any) -> None:
    np.savez(here / "a.npz", **arrays(**changes))


def npy(shape: str, content: bytes = b"", descr: str = "<f4") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + content


def claiming(shape: str, descr: str = "<f4") -> Make:
    def make(here: Path) -> None:
        with zipfile.ZipFile(here / "a.npz", "w") as archive:
            for name, array in arrays().items():
                content = io.BytesIO()
                np.save(content, array)
                archive.writestr(f"{name}.npy", npy(shape, descr=descr) if name == "train_x" else content.getvalue())

    return make


NPZ = f"{TRAIN} --data npz:a.npz".split()
given("a header of 2^60 numbers", NPZ, "it states", make=claiming("(1152921504606846976,)"))
given("a header of negative axes", NPZ, "a.npz: ", make=claiming("(-1, -4)"))
given("a header with a text for shape", NPZ, "a.npz: ", make=claiming("'x'"))
given("a header that calls", NPZ, "a.npz: ", make=claiming("(print(1),)"))
given("objects behind a header", NPZ, "allow_pickle=False", make=claiming("(1,)", "|O"))
given("an unknown dtype", NPZ, "a.npz: ", make=claiming("(1,)", "<Q9"))
given("complex inputs", NPZ, "complex", make=lambda here: npz(here, train_x=np.zeros((4, 3), complex)))
given(
    "inputs without features",
    NPZ,
    "shape (4, 0)",
    make=lambda here: npz(here, train_x=np.zeros((4, 0)), test_x=np.zeros((4, 0))),
)
given("no samples", NPZ, "n ≥ 1", make=lambda here: npz(here, train_x=np.zeros((0, 3)), train_y=np.zeros(0, int)))
given("inputs that overflow", NPZ, "non-finite", make=lambda here: npz(here, train_x=np.full((4, 3), 1e300)))
given(
    "labels of 2^41",
    NPZ,
    "classes, at most 4096 are allowed",
    make=lambda here: npz(here, train_y=np.array([0, 2**41, 0, 1])),
)
given("labels of 10^9", NPZ, "1000000001 classes", make=lambda here: npz(here, test_y=np.array([0, 10**9, 0, 1])))
given(
    "labels of 2^64",
    NPZ,
    "labels go up to",
    make=lambda here: npz(here, train_y=np.array([0, 2**64 - 1, 0, 1], np.uint64)),
)
given("labels below 0", NPZ, "labels lie in -5…1", make=lambda here: npz(here, train_y=np.array([0, -5, 0, 1])))
given(
    "labels that are NaN", NPZ, "labels are float64", make=lambda here: npz(here, train_y=np.array([0, np.nan, 0, 1]))
)
given("100,000 names of classes", NPZ, "100000 classes", make=lambda here: npz(here, classes=np.arange(100_000)))
given("a path in the archive", NPZ, "it holds", make=lambda here: np.savez(here / "a.npz", **{"../../x": np.zeros(3)}))


@case("an encrypted archive", " ".join(NPZ), "a.npz: ")
def _(here: Path) -> None:
    npz(here)
    content = bytearray((here / "a.npz").read_bytes())
    at = 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:  # the bit of every entry that says so
        content[at + 8] |= 1
        at += 4
    (here / "a.npz").write_bytes(content)


def zip_bomb(path: Path, names: list[str], each: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(npy(f"({each >> 2},)"))
                for _ in range(each >> 22):
                    member.write(bytes(1 << 22))


given("a zip bomb", NPZ, "times as much; if that is right, add --limits input=",
      make=lambda here: zip_bomb(here / "a.npz", [f"{name}.npy" for name in arrays()], 96 << 20))  # fmt: skip
given("a zip bomb of class names", NPZ, "times as much",
      make=lambda here: zip_bomb(here / "a.npz", ["train_x.npy", "classes.npy"], 192 << 20))  # fmt: skip


def idx(head: bytes, packed: bool = True) -> Make:
    def make(here: Path) -> None:
        (here / "m").mkdir()
        name = here / "m" / "train-images-idx3-ubyte"
        if packed:
            name.with_name(f"{name.name}.gz").write_bytes(gzip.compress(head))
        else:
            name.write_bytes(head)

    return make


MNIST = f"{TRAIN} --data mnist:m".split()
LARGE = b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**10, 2**10)
given("an IDX file of 2 PiB", MNIST, "bytes, expected 2251799813685264", make=idx(LARGE))
given("the same unpacked", MNIST, "bytes, expected 2251799813685264", make=idx(LARGE, False))
given("an IDX file of 255 axes", MNIST, "has 255 axes", make=idx(b"\0\0\x08\xff" + b"\xff" * 1020))
given("an IDX file of doubles of nothing", MNIST, "magic number", make=idx(b"\0\0\x00\x03" + bytes(12)))
given("gzip in gzip", MNIST, "magic number", make=idx(gzip.compress(bytes(100))))


@case("gzip cut short", " ".join(MNIST), "not a complete gzip file")
def _(here: Path) -> None:
    (here / "m").mkdir()
    content = gzip.compress(b"\0\0\x08\x01\0\0\0\x64" + bytes(100))
    (here / "m/train-images-idx3-ubyte.gz").write_bytes(content[:-9])


@case("a gzip bomb", " ".join(MNIST), "times as much")
def _(here: Path) -> None:
    (here / "m").mkdir()
    with gzip.open(here / "m" / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        file.write(b"\0\0\x08\x03" + struct.pack(">3I", 300, 1024, 1024))
        for _ in range(300):
            file.write(bytes(1 << 20))


# --- pickles


def cifar(batch: Any) -> Make:
    def make(here: Path) -> None:
        (here / "c").mkdir()
        content = batch if isinstance(batch, bytes) else pickle.dumps(batch)
        (here / "c" / "data_batch_1").write_bytes(content)

    return make


CIFAR = f"{TRAIN} --data cifar10:c".split()
PIXELS = np.zeros((2, 3072), np.uint8)
given("labels: None", CIFAR, "'labels' is a NoneType", make=cifar({"data": PIXELS, "labels": None}))
given("data: None", CIFAR, "data is a NoneType", make=cifar({"data": None, "labels": [0, 1]}))
given("labels of labels", CIFAR, "'labels' is a list", make=cifar({"data": PIXELS, "labels": [[0], [1]]}))
given("a label of 300 digits", CIFAR, "labels are object", make=cifar({"data": PIXELS, "labels": [10**300, 0]}))
given(
    "a memo of 2^31 places", CIFAR, "refused, it asks for the memo's place", make=cifar(b"\x80\x02Nr\xff\xff\xff\x7f.")
)
given(
    "a byte array of 2^40",
    CIFAR,
    "not a readable file of arrays",
    make=cifar(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."),
)
given(
    "a text of 2^63",
    CIFAR,
    "not a readable file of arrays",
    make=cifar(b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"."),
)
given("a persistent name", CIFAR, "not a readable file of arrays", make=cifar(b"\x80\x02X\x01\0\0\0xQ."))
given("a pickle that calls", CIFAR, "refused, it asks for 'posix.system'", make=cifar(b"cposix\nsystem\n(S'true'\ntR."))


@case("lists in lists, 10^12 of them", " ".join(CIFAR), "data is a list")
def _(here: Path) -> None:
    nested: list[Any] = [0] * 10
    for _ in range(11):
        nested = [nested] * 10  # a few bytes in the file
    cifar({"data": nested, "labels": [0, 1]})(here)


@case("a torch file that is a bomb", f"{TRAIN} --noise human:a.pt,worse_label", "times as much")
def _(here: Path) -> None:
    zip_bomb(here / "a.pt", ["archive/data.pkl", "archive/data/0"], 192 << 20)


# --- images


def images(here: Path, side: int, parts: tuple[str, ...] = ("train", "test"), count: int = 2) -> None:
    image = pytest.importorskip("PIL.Image")
    for part in parts:
        for label in "ab":
            folder = here / "images" / part / label
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(1, count + 1):
                image.new("1", (side, side)).save(folder / f"{i}.png")


given(
    "images scaled to 999,999 pixels",
    f"{TRAIN} --data folder:images,size=999999".split(),
    "take a smaller size",
    make=lambda here: images(here, 8),
)
given(
    "a size of 30 digits",
    f"{TRAIN} --data folder:images,size={'9' * 30}".split(),
    "take a smaller size",
    make=lambda here: images(here, 8),
)
given(
    "images scaled to 0", f"{TRAIN} --data folder:images,size=0".split(), "size is 0", make=lambda here: images(here, 8)
)


@case("an image of 12,000 pixels a side", f"{TRAIN} --data folder:images", "has 12000×12000 pixels")
def _(here: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    images(here, 8)
    head = struct.pack(">2I5B", 12_000, 12_000, 1, 0, 0, 0, 0)
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (here / "images/train/a/0.png").write_bytes(image)


@case("an image that is text", f"{TRAIN} --data folder:images", "cannot be read as an image")
def _(here: Path) -> None:
    images(here, 8)
    (here / "images/train/a/0.png").write_text("not an image")


@case("a list of images that leads out", f"{TRAIN} --data folder:images", "outside of it")
def _(here: Path) -> None:
    images(here, 8)
    (here / "images" / "wnids.txt").write_text("a\n../../b\n")
    (here / "images/train/a/images").mkdir()
    shutil.copy(here / "images/train/a/1.png", here / "images/train/a/images/1.png")
    (here / "images" / "val").mkdir()
    (here / "images/val/val_annotations.txt").write_text("../../../../etc/hostname\ta\n")


# --- names

SWEEP = "sweep --config s.toml --out swept --quiet"


def toml(text: str) -> Make:
    return lambda here: (here / "s.toml").write_text(text) and None


def arm(name: str, **more: Any) -> Make:
    settings = "".join(f"{key} = {json.dumps(value)}\n" for key, value in more.items())
    head = "seeds = 1\nnoise = ['none']\n[train]\nepochs = 1\n"
    return toml(f"{head}[[arms]]\nname = {json.dumps(name)}\noptimizer = 'sgd'\n{settings}")


for named in ("../../esc", "/tmp/esc", "..", ".hidden", "a/b", "a\\b", "x" * 81, "a\nb", "é", "=cmd"):
    given(f"an arm called {named[:12]!r}", SWEEP.split(), "cannot name an arm", make=arm(named))
    given(
        f"an arm called {named[:12]!r}, overwriting",
        [*SWEEP.split(), "--overwrite"],
        "cannot name an arm",
        make=arm(named),
    )
for named in ("../x", "..", "a//b", "a\nb", "x" * 81, "a b", "-" * 90):
    given(f"a result called {named[:12]!r}", ["hessian", "run.h5", f"--name={named}"], "cannot name a result")
    measured = (
        f"seeds = 1\nnoise = ['none']\narms = [{{optimizer = 'sgd'}}]\n[measure]\n{json.dumps(f'sharpness/{named}')}"
    )
    given(
        f"a measurement called {named[:12]!r}",
        SWEEP.split(),
        "cannot name a measurement",
        make=toml(f"{measured} = {{}}"),
    )


@case("a run that is a link to elsewhere", f"{SWEEP} --resume", "outside of swept/runs; remove the link")
def _(here: Path) -> None:
    arm("a")(here)
    (here / "swept" / "runs").mkdir(parents=True)
    (here / "swept" / "runs" / "a-none-seed0.h5").symlink_to(here / "elsewhere.h5")


@case("a folder of runs that is a link to elsewhere", f"{SWEEP} --resume", "outside of swept; remove the link")
def _(here: Path) -> None:
    arm("a")(here)
    (here / "swept").mkdir()
    (here / "elsewhere").mkdir()
    (here / "swept" / "runs").symlink_to(here / "elsewhere")


@case(
    "a run reached through a dangling link",
    f"{TRAIN} --overwrite".replace("new.h5", "link.h5"),
    "is a symbolic link to gone.h5, which is not there",
)
def _(here: Path) -> None:
    (here / "link.h5").symlink_to("gone.h5")


@case("a result added through a dangling link", "hessian link.h5", "is a symbolic link to gone.h5, which is not there")
def _(here: Path) -> None:
    (here / "link.h5").symlink_to("gone.h5")


@case("a link to itself", "hessian link.h5", "link.h5")
def _(here: Path) -> None:
    (here / "link.h5").symlink_to("link.h5")


# --- descriptions of sweeps

MANY = f"[{', '.join(['0.1'] * 1000)}]"
LISTED = [f"{name} = {MANY}" for name in ("lr", "momentum", "weight_decay")]
HEAD = "seeds = 1\nnoise = ['none']\narms = [{optimizer = 'sgd'}]\n"
for what, text, told in (
    ("10^9 seeds", HEAD.replace("1", "1000000000", 1), "1000000000 runs or more, at most 100000"),
    ("seeds of 1.5", HEAD.replace("1", "1.5", 1), "seeds is 1.5"),
    ("seeds of true", HEAD.replace("1", "true", 1), "seeds is True"),
    ("seeds of text", HEAD.replace("1", "'abc'", 1), "seeds is 'abc'"),
    ("seeds of texts", HEAD.replace("1", "['0']", 1), "seeds is ['0']"),
    ("a seed of 10^30", HEAD.replace("1", f"[1{'0' * 30}]", 1), "seed of the split is 1000"),
    ("seeds below 0", HEAD.replace("1", "-5", 1), "seeds is -5"),
    ("no seeds", HEAD.replace("1", "[]", 1), "seeds is []"),
    ("noise of numbers", HEAD.replace("['none']", "[1.5]"), "noise is [1.5]"),
    ("noise of a number", HEAD.replace("['none']", "3"), "noise is 3"),
    ("arms of text", HEAD.replace("[{optimizer = 'sgd'}]", "'sgd'"), "arms is 'sgd'"),
    ("arms of texts", HEAD.replace("[{optimizer = 'sgd'}]", "['sgd']"), "an arm is 'sgd', expected a table"),
    ("training of text", f"{HEAD}train = 'long'", "[train] is 'long', expected a table"),
    ("measurements of text", f"{HEAD}measure = 'all'", "[measure] is 'all'"),
    ("a measurement of text", f"{HEAD}measure = {{sharpness = 'all'}}", "[measure] sharpness is 'all'"),
    ("an unknown setting of a measurement", f"{HEAD}measure = {{sharpness = {{rhoo = 1}}}}", "unknown key 'rhoo'"),
    ("tuning of text", f"{HEAD}tune = 'yes'", "[tune] is 'yes'"),
    ("1.9 epochs", f"{HEAD}train = {{epochs = 1.9}}", "epochs is 1.9, expected a whole number"),
    ("true epochs", f"{HEAD}train = {{epochs = true}}", "epochs is True, expected a whole number"),
    ("epochs of a date", f"{HEAD}train = {{epochs = 2020-01-01}}", "expected a whole number"),
    ("10^30 epochs", f"{HEAD}train = {{epochs = 1{'0' * 30}}}", "epochs is 1000"),
    ("a learning rate of 1e308", f"{HEAD}train = {{lr = 1e308}}", "lr is 1e+308"),
    ("a learning rate of NaN", f"{HEAD}train = {{lr = nan}}", "lr is nan"),
    ("a radius of 1e308", HEAD.replace("'sgd'", "'sam', rho = 1e308"), "rho is 1e+308"),
    ("a data set of numbers", f"{HEAD}train = {{data = 3}}", "data is 3, expected text"),
    ("checkpoints of text", f"{HEAD}train = {{checkpoints = '12'}}", "checkpoints is '12'"),
    ("10^12 arms", HEAD.replace("'sgd'", f"'sam', rho = {MANY}, {', '.join(LISTED)}"), "1000000000000 runs or more"),
    ("10^9 candidates", "\n".join([f"{HEAD}[tune]\nseeds = [9]", *LISTED]), "1000000001 runs or more"),
    ("deep nesting", f"x = {'[' * 3000}{']' * 3000}", "nested too deep"),
    ("deep keys", f"x{'.x' * 3000} = 1", "nested too deep"),
    ("a number of 5,000 digits", f"seeds = {'9' * 5000}", "not a TOML file"),
    ("a byte that is no text", "seeds = '\udcff'", "not a text file"),
):  # fmt: skip
    content = text.encode(errors="surrogateescape")
    given(f"a sweep of {what}", ["sweep", "--config", "s.toml", "--dry-run"], told, make=holding("s.toml", content))
given("10^9 seeds on the command line", ["sweep", "--seeds", "1000000000", "--dry-run"], "1000000000 runs or more")
given("seeds 0-10^9", ["sweep", "--seeds", "0-1000000000", "--dry-run"], "see --limits")
given("seeds of 5,000 digits", ["sweep", "--seeds", "9" * 5000, "--dry-run"], "expected numbers below")
given(
    "a megabyte of TOML too much",
    ["sweep", "--config", "s.toml", "--dry-run"],
    "expected at most 1 MiB",
    make=toml("#" * (1 << 21)),
)
given("limits that are none", ["sweep", "--limits", "input=all", "--dry-run"], "expected cells, classes, input")


def plan_file(**content: Any) -> Make:
    """A plan with its own hash, whatever it says."""

    def make(here: Path) -> None:
        from ncsam.sweep.canonical import digest

        parts = dict.fromkeys(("created", "seeds", "arms", "tuning", "exclusions", "pilots", "power"))
        whole = {"kind": "study plan", "format": 1, **parts, "sweep": None, "statements": None, **content}
        (here / "plan.json").write_text(json.dumps({**whole, "sha256": digest(whole)}))

    return make


NO_PLAN: dict[str, tuple[Make, str]] = {
    "a plan that is no JSON": (holding("plan.json", b"\xff\x00"), "plan.json: not a text file"),
    "a plan nested too deep": (holding("plan.json", b"[" * 100_000), "plan.json: is nested too deep"),
    "a plan that is a list": (holding("plan.json", b"[]"), "plan.json: is no plan"),
    "a plan of nothing": (plan_file(), "plan.json: its sweep cannot be used"),
    "a plan without its parts": (
        holding(
            "plan.json",
            b'{"kind": "study plan", "format": 1, "sha256": "%s"}'
            % hashlib.sha256(b'{"format":1,"kind":"study plan"}').hexdigest().encode(),
        ),
        "it has no 'created'",
    ),
    "a plan whose sweep is text": (plan_file(sweep="rm -rf"), "plan.json: its sweep cannot be used"),
    "a plan whose sweep is empty": (plan_file(sweep={}), "plan.json: its sweep cannot be used"),
    "a plan of 10^12 seeds": (
        plan_file(sweep={"seeds": 10**12, "noise": ["none"], "arms": [{"optimizer": "sgd"}]}),
        "runs or more",
    ),
    "a plan of statements that are text": (
        plan_file(sweep={"seeds": 1, "noise": ["none"], "arms": [{"optimizer": "sgd"}]}, statements="all"),
        "plan.json: its sweep cannot be used",
    ),
    "a plan of an arm that leads elsewhere": (
        plan_file(sweep={"seeds": 1, "noise": ["none"], "arms": [{"optimizer": "sgd", "name": "../../x"}]}),
        "cannot name an arm",
    ),
}
for what, (make, told) in NO_PLAN.items():
    given(what, ["plan", "--check", "plan.json"], told, make=make)
    given(f"a sweep by {what}", ["sweep", "--plan", "plan.json", "--out", "swept"], told, make=make)


def sweep_json(text: str) -> Make:
    def make(here: Path) -> None:
        (here / "swept").mkdir()
        (here / "swept" / "sweep.json").write_text(text)

    return make


for what, text in {
    "a list": "[]", "a number": "3", "deep": "[" * 100_000 + "]" * 100_000, "cut short": "{", "NaN": "NaN",
    "a run that leads out": json.dumps({"seeds": 1, "noise": ["none"], "arms": [{"optimizer": "sgd", "name": "../x"}]}),
}.items():  # fmt: skip
    given(
        f"sweep.json: {what}",
        ["sweep", "--status", "swept"],
        "swept/sweep.json: not the description of a sweep",
        make=sweep_json(text),
    )


# --- configuration files

for what, text, told in (
    ("1.9 epochs", "epochs = 1.9", "epochs is 1.9, expected a whole number"),
    ("true epochs", "epochs = true", "epochs is True, expected a whole number"),
    ("epochs of a date", "epochs = 2020-01-01", "expected a whole number"),
    ("epochs of a time", "epochs = 07:32:00", "expected a whole number"),
    ("a list of epochs", "epochs = [1, 2]", "is not a valid integer"),
    ("a flag of 2", "overwrite = 2", "overwrite is 2, expected true or false"),
    ("a true rate", "lr = true", "lr is True, expected a number"),
    ("a list in a list", "checkpoints = [[1]]", "expected text"),
    ("a date as data", "data = 2020-01-01", "expected text"),
    ("betas of one", "betas = [0.9]", "betas"),
    ("trust", "trust = true", "has no place in a file"),
):
    given(f"a file with {what}", f"{TRAIN} --config s.toml".replace("--epochs 1 ", "").split(), told, make=toml(text))

# --- numbers

for option in (
    "--lr 1e308",
    "--lr -1",
    "--weight-decay 1e308",
    "--momentum 2",
    "--epochs 1000000000000",
    "--batch-size 0",
    "--batch-size 99999999999999999999",
    f"--seed 1{'0' * 30}",
    "--seed-noise 4294967296",
    "--train-samples -1",
    "--val-fraction 1",
    "--warmup 1e308",
    "--base-optimizer adam --betas 1 2",
    "--diagnose 1000000000000",
    "--optimizer sam --rho 1e308",
):
    given(f"train {option}", f"train --out new.h5 --quiet {option}".split(), "is not in the range")
for option, told in {
    "--noise symmetric:nan": "noise rate is nan",
    "--noise symmetric:1e308": "noise rate is 1e+308",
    "--noise beta:0,0": "expected both > 0",
    "--noise beta:inf,1": "finite",
    "--loss gce:1e308": "q is 1e+308",
    f"--noise asymmetric:0.1,map={'9' * 30}-1": "expected two different classes",
    "--noise asymmetric:0.1,map=0-1+0-": "is not a list of class indices",
    "--loss sce:nan,1": "alpha is nan",
    "--lr-schedule step:nan@0.5": "the factor nan",
}.items():
    given(f"train {option}", f"train --out new.h5 --quiet {option}".split(), told)


# --- run files


def changed(here: Path, change: Callable[[h5py.File], None]) -> None:
    """The run file with a change that it was sealed with: what an attacker hands out."""
    path = here / "run.h5"
    with h5py.File(path, "r+") as file:
        entries = manifest.compute(file, manifest.UNBOUNDED)
        change(file)
        with contextlib.suppress(store.StoreError):  # what this store would not read keeps no digest
            entries = manifest.compute(file, manifest.UNBOUNDED)
        manifest.write(file, entries)
    content = path.read_bytes()
    assert seal.END.search(content) is None  # HDF5 cuts off what lies behind its data
    path.unlink()
    disk = Disk(path)
    disk.write(content)
    seal.append(disk, {})
    disk.sync()
    disk.close()


def with_config(**changes: Any) -> Make:
    def change(file: h5py.File) -> None:
        config = json.loads(bytes(file.attrs.get("config")).decode().removeprefix("json:"))
        text = f"json:{json.dumps({**config, **changes})}".encode()
        del file.attrs["config"]
        file.attrs.create("config", np.array(text, h5py.string_dtype("utf-8", len(text))))

    return lambda here: changed(here, change)


def without_weights(file: h5py.File) -> None:
    del file["weights"]


def other_weights(file: h5py.File) -> None:
    group = file["weights/1"]
    name = next(iter(group))
    value = group[name][...]
    del group[name]
    group.create_dataset(name, data=np.zeros((2, *value.shape), value.dtype))


def zeros(file: h5py.File) -> None:
    """Two GiB, each chunk of which is the same few bytes."""
    chunk = 1 << 20
    more = file["weights/1"].create_dataset("more", shape=(1 << 28,), dtype="f8", chunks=(chunk,), compression="gzip")
    packed = zlib.compress(bytes(8 * chunk))
    for start in range(0, 1 << 28, chunk):
        more.id.write_direct_chunk((start,), packed)


def wide_weights(file: h5py.File) -> None:
    group = file["weights/1"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    space = h5py.h5s.create_simple((1 << 50,))
    h5py.h5d.create(group.id, b"more", h5py.h5t.IEEE_F64LE, space, properties)


def odd_epoch(file: h5py.File) -> None:
    file.move("weights/1", "weights/first")


HESSIAN = ["hessian", "run.h5", "--views", "mixed", "--top", "1", "--trace", "0", "--quiet"]
given("a run whose data are a device", HESSIAN, "/dev/zero: is a device", make=with_config(data="npz:/dev/zero"))
given("a run whose noise is a device", HESSIAN, "/dev/zero: is a device", make=with_config(noise="matrix:/dev/zero"))
given("a run whose model is code", HESSIAN, "would import and run code", make=with_config(model="os:system"))
given("a run of 1.9 epochs", HESSIAN, "epochs is 1.9", make=with_config(epochs=1.9))
given(
    "a run with text for its seeds", HESSIAN, "run.h5: its configuration cannot be used", make=with_config(seeds="all")
)
given("a run with numbers for data", HESSIAN, "data is 3, expected text", make=with_config(data=3))
given("a run of unknown settings", HESSIAN, "unknown configuration key", make=with_config(epoch=1))
given("a run without weights", HESSIAN, "holds no weights", make=lambda here: changed(here, without_weights))
given(
    "a run with other weights",
    HESSIAN,
    "its weights are not those of 'mlp'",
    make=lambda here: changed(here, other_weights),
)
given("2 GiB of zeros in a run", HESSIAN, "unpacks to", make=lambda here: changed(here, zeros))
given("8 PiB claimed in a run", HESSIAN, "claims", make=lambda here: changed(here, wide_weights))
given(
    "an epoch that is no number",
    HESSIAN,
    "holds weights of the epoch 'first'",
    make=lambda here: changed(here, odd_epoch),
)
given("the zeros in a figure", ["figure", "run.h5", "--out", "figures", "--quiet"], "", make=with_config(epochs=True))


@case("a study whose runs lead out", "figure study.h5 --all --out figures --quiet", "cannot name a run")
def _(here: Path) -> None:
    from ncsam.runs.run import Run
    from ncsam.study.files import collect, write_study

    table = collect([here / "run.h5"])
    table.names[:] = ["../r"]
    write_study(table, here / "study.h5", [Run(here / "run.h5")])


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    train = ["train", "--epochs", "1", "--optimizer", "sgd", "--weight-decay", "0", "--train-samples", "200", "--quiet"]
    assert landscape([*train, "--out", str(path)]) == 0
    return path


def files(folder: Path) -> dict[str, Any]:
    """Everything in a folder: what files hold, where links lead."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.stat().st_mtime_ns if path.is_file() else None
    return found


def test_there_are_many_cases_and_each_has_its_own_name() -> None:
    names = [name for name, *_ in CASES]
    assert len(set(names)) == len(names)
    assert len(names) >= 150


@pytest.mark.parametrize(("arguments", "told", "status", "make"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_hostile_input_ends_in_one_line(
    arguments: list[str], told: str, status: int, make: Make, copy: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    here = tmp_path / "here"
    here.mkdir()
    shutil.move(copy, here / "run.h5")
    monkeypatch.chdir(here)
    make(here)
    before = files(tmp_path)
    tracemalloc.start()
    began = time.monotonic()
    try:
        found = landscape(arguments)
    finally:
        seconds, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    captured = capfd.readouterr()
    lines = (captured.out + captured.err).strip().splitlines()
    assert len(lines) == 1, lines
    assert status == 1 or lines[0].startswith("landscape: error: ")
    assert told in lines[0]
    assert found == status
    assert len(lines[0]) < 1000
    assert "Traceback" not in lines[0]
    assert "--debug" not in lines[0]
    assert files(tmp_path) == before
    assert peak < MEMORY
    assert seconds < SECONDS


CODE = """
import sys
import numpy as np

def leave(*_, **__):
    sys.exit(0)

def fail(*_, **__):
    raise RuntimeError("first line\\nsecond line")

def nested(seed):
    return np.zeros((4, 2)), [[0, 1]] * 4, np.zeros((4, 2)), [0, 1, 0, 1]
"""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--model hostile:leave", "hostile:leave, called as factory((1, 8, 8), 10), raised SystemExit: 0"),
        ("--model hostile:fail", "raised RuntimeError: first line second line"),
        ("--data hostile:leave", "hostile:leave, called as factory(seed=0), raised SystemExit"),
        ("--data hostile:fail", "raised RuntimeError: first line"),
        ("--data hostile:nested", "labels are int64 of shape (4, 2)"),
        ("--data leaving:anything", "importing 'leaving:anything' raised SystemExit: 0"),
    ],
)
def test_code_of_the_users_that_ends_the_program_is_a_failure(
    arguments: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hostile.py").write_text(CODE)
    (tmp_path / "leaving.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert landscape(["train", "--out", "new.h5", "--epochs", "1", "--quiet", *arguments.split()]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line
    assert not (tmp_path / "new.h5").exists()


@pytest.mark.parametrize("name", ["a zip bomb", "a gzip bomb", "2 GiB of zeros in a run", "a byte array of 2^40"])
def test_the_system_grants_little_memory(name: str, copy: Path, tmp_path: Path) -> None:
    arguments, told, status, make = next(case[1:] for case in CASES if case[0] == name)
    make(tmp_path)
    bounded = (
        "import resource, sys, torch, ncsam.runs.run, ncsam.measurements\n"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (held + {MEMORY}, held + {MEMORY}))\n"
        "from landscape_cli.main import run\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", bounded, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert told in line
