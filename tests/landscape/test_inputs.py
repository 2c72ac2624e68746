"""Files and names that come from outside: refused before anything is read, allocated or written."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from landscape import inputs


@pytest.fixture
def special(tmp_path: Path) -> dict[str, Path]:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    return {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path / "folder"}


@pytest.mark.parametrize("read", [inputs.read_bytes, inputs.read_text, inputs.read_toml, inputs.read_json])
def test_only_regular_files_are_read(read: Callable[[Path], object], special: dict[str, Path]) -> None:
    for kind in ("pipe", "device"):
        with pytest.raises(inputs.Unfit, match=f"{special[kind]}: is a .*{kind}, expected a regular file"):
            read(special[kind])
    with pytest.raises(IsADirectoryError):
        read(special["folder"])
    with pytest.raises(FileNotFoundError):
        read(special["folder"] / "missing")


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    with pytest.raises(inputs.Unfit, match=r"1 TiB are more than the 8 GiB allowed; .*add --limits input=1025GiB"):
        inputs.read_bytes(path)
    with pytest.raises(inputs.Unfit, match="has 1 TiB, expected at most 1 MiB"):
        inputs.read_toml(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 3000 + "]" * 3000,
        "x = " + "[" * 40 + "]" * 40,
        "x" + ".x" * 3000 + " = 1",
        "x = " + "{x = " * 900 + "1" + "}" * 900,
        "[" + ".".join("x" * 40) + "]\n",
    ],
    ids=["lists", "a few lists", "keys", "tables", "heads"],
)
def test_deep_toml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.toml").write_text(text)
    with pytest.raises(inputs.Unfit, match="nested too deep"):
        inputs.read_toml(tmp_path / "deep.toml")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"x": ', "}")])
@pytest.mark.parametrize("depth", [40, 100_000])
def test_deep_json_is_refused(tmp_path: Path, opening: str, closing: str, depth: int) -> None:
    (tmp_path / "deep.json").write_text(opening * depth + "1" + closing * depth)
    with pytest.raises(inputs.Unfit, match="nested too deep"):
        inputs.read_json(tmp_path / "deep.json")


@pytest.mark.parametrize("text", ["x = = 1", "x = 1" + "0" * 5000, "\ufeffx = 1", "x = 2021-99-99"])
def test_what_is_no_toml_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(inputs.Unfit, match=r"bad\.toml: not a TOML file"):
        inputs.read_toml(tmp_path / "bad.toml")


def test_text_is_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'x = "\xe9"')
    with pytest.raises(inputs.Unfit, match="not a text file"):
        inputs.read_toml(tmp_path / "latin.toml")


BAD_NAMES = [
    "",
    ".",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "a\0b",
    "a\nb",
    "a b",
    "ä",
    "x" * 81,
    "a:b",
    "*",
    "~",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_names_that_no_file_gets(name: str, tmp_path: Path) -> None:
    with pytest.raises(inputs.Unfit, match="cannot name"):
        inputs.file_name(name, "an arm")
    with pytest.raises(inputs.Unfit, match="cannot name"):
        inputs.inside(tmp_path, name)
    made = inputs.as_file_name(name)
    assert inputs.file_name(made, "it") == made


def test_names_made_of_different_texts_differ() -> None:
    texts = [*BAD_NAMES, "a_b", "a-b", "x" * 200, "x" * 201]
    assert len({inputs.as_file_name(text) for text in texts}) == len(texts)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "run.h5").symlink_to(tmp_path / "elsewhere.h5")
    with pytest.raises(inputs.Unfit, match=r"elsewhere.h5, outside of .*remove the link"):
        inputs.inside(tmp_path / "in", "run.h5")
    (tmp_path / "link").symlink_to(tmp_path / "in")  # the folder itself may be reached through one
    assert inputs.inside(tmp_path / "link", "new.h5") == tmp_path / "link" / "new.h5"


def test_outputs_are_written_through_links_to_regular_files(tmp_path: Path, special: dict[str, Path]) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(inputs.Unfit, match=r"is a symbolic link to .*real, which is not there"):
        inputs.output(link)
    real.write_text("there")
    assert inputs.output(link) == real
    for kind in ("pipe", "device"):
        with pytest.raises(inputs.Unfit, match="expected a regular file"):
            inputs.output(special[kind])


def test_limits_are_raised_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(inputs.VARIABLE, raising=False)
    with pytest.raises(inputs.Unfit, match="5000 classes, at most 4096"):
        inputs.check_classes("labels", 5000)
    with inputs.limited("classes=5000,input=1T"):
        inputs.check_classes("labels", 5000)
        inputs.check_size("file", 1 << 40, stored=1)
    assert inputs.VARIABLE not in os.environ


@pytest.mark.parametrize(
    "text", ["input", "input=", "input=-1", "input=0", "inputs=1", "input=1e9", "input=nan", "=", "9" * 30]
)
def test_limits_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="expected cells, classes, input, memory = a number"), inputs.limited(text):
        pass
