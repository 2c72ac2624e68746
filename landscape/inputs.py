"""Input from outside: files that are read, how large they may be, and names that become names of files.

Checks are made before anything is allocated, created or removed. Only regular files are read: a pipe would hang, a
device has no end. The bounds in :class:`Limits` are far above what real data need; the environment variable
``LANDSCAPE_LIMITS`` raises them, so that worker processes know them too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

VARIABLE = "LANDSCAPE_LIMITS"
LONGEST_NAME = 80  # characters
DEEPEST = 32  # tables and lists within each other in a TOML or JSON file
TEXT = 1 << 20  # bytes of a file that people write
LISTING = 1 << 26  # bytes of a file that programs write: JSON, lists of samples
SUSPICIOUS = 100  # times a compressed file may grow, beyond which data are rare and bombs are common
HARMLESS = 1 << 28  # bytes to which any file may grow

_NAME = re.compile(rf"(?!\.)[A-Za-z0-9_.+-]{{1,{LONGEST_NAME}}}")
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_KINDS = {
    stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}  # fmt: skip


class Unfit(ValueError):
    """A file or a name that is refused for what it is, not for what it holds; one line says why."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of what is accepted unless the user raises them.

    Attributes:
        input: bytes of what is read at a time: a file, or what it unpacks to, or all images of a folder.
        memory: bytes that inputs which are read as they are needed may keep of themselves.
        classes: of a data set; label noise keeps a matrix of their square.
        cells: of a sweep.
    """

    input: int = 8 << 30
    memory: int = 2 << 30
    classes: int = 4096
    cells: int = 100_000


def limits() -> Limits:
    """The limits that hold now: the defaults, and over them what ``LANDSCAPE_LIMITS`` says.

    Raises:
        Unfit: the variable is not spelled as :func:`parse_limits` expects.
    """
    return parse_limits(os.environ.get(VARIABLE, ""))


def parse_limits(text: str) -> Limits:
    """Limits as they are spelled: ``input=64GiB,classes=20000``; what is not named keeps its default.

    Raises:
        Unfit: an unknown name, or no number ≥ 1.

    >>> parse_limits("input=64GiB, cells=500000")
    Limits(input=68719476736, memory=2147483648, classes=4096, cells=500000)
    """
    known = {field.name for field in dataclasses.fields(Limits)}
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        number = re.fullmatch(r"(\d{1,18})\s*([kmgt]?)(?:i?b)?", value.lower())
        if name not in known or number is None or int(number[1]) < 1:
            raise ValueError(f"limit {part!r}, expected {', '.join(sorted(known))} = a number ≥ 1, such as input=64GiB")
        found[name] = int(number[1]) * _UNITS[number[2]]
    return Limits(**found)


@contextlib.contextmanager
def limited(text: str | None = None) -> Iterator[None]:
    """Within this context, in processes started meanwhile too, the limits are those spelled ``text``.

    Afterwards they are what they were before, even if they were changed meanwhile; without ``text`` that is all.

    Raises:
        Unfit: as :func:`parse_limits`.
    """
    before = os.environ.get(VARIABLE)
    if text is not None:
        parse_limits(text)
        os.environ[VARIABLE] = text
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def check_size(what: str | os.PathLike[str], size: int, stored: int | None = None) -> None:
    """Refuse a size in bytes above the limit, or one that is out of proportion to the ``stored`` compressed bytes.

    Raises:
        Unfit: it is too large.

    >>> check_size("bomb.npz", 3 << 30, stored=3 << 20)
    Traceback (most recent call last):
    landscape.inputs.Unfit: bomb.npz: 3 MiB unpack to 3 GiB, 1024 times as much; if that is right, add --limits ...
    """
    limit = limits().input
    raised = f"if that is right, add --limits input={-(-size // 2**30) + 1}GiB"
    if size > limit:
        raise Unfit(f"{os.fspath(what)}: {readable(size)} are more than the {readable(limit)} allowed; {raised}")
    if limit == Limits.input and stored is not None and size > max(HARMLESS, SUSPICIOUS * stored):
        times = size // max(stored, 1)
        raise Unfit(
            f"{os.fspath(what)}: {readable(stored)} unpack to {readable(size)}, {times} times as much; {raised}"
        )


def check_classes(what: str, count: int) -> None:
    """Refuse more classes than the limit.

    Raises:
        Unfit: there are more.
    """
    if count > limits().classes:
        raise Unfit(
            f"{what}: {count} classes, at most {limits().classes} are allowed; are the labels right? If they are, add "
            f"--limits classes={count}"
        )


def readable(size: int) -> str:
    """A size in bytes for people.

    >>> readable(900), readable(3 << 20), readable(7_000_000_000)
    ('900 bytes', '3 MiB', '6.52 GiB')
    """
    for unit, name in ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}" if size < 1000 * unit else f"{size // unit} {name}"
    return f"{size} bytes"


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """A regular file, open for reading; never waits for a pipe.

    Raises:
        Unfit: a pipe, a device or a socket.
        OSError: there is no such file, it is a folder, or it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_regular(path, os.fstat(descriptor).st_mode)
        stream = os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    with stream:
        yield stream


def check_regular(path: str | os.PathLike[str], mode: int | None = None) -> None:
    """Refuse what is no regular file; ``mode`` is its type where that is known.

    Raises:
        Unfit: a pipe, a device or a socket.
        OSError: there is no such file, or it is a folder.
    """
    mode = os.stat(path).st_mode if mode is None else mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise Unfit(f"{os.fspath(path)}: is {kind}, expected a regular file; copy what it gives to one")


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The content of a regular file of at most ``limit`` bytes, :func:`limits` if none.

    Raises:
        Unfit, OSError: as :func:`opened`; the file is larger.
    """
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if limit is None:
            check_size(path, size)
        elif size > limit:
            raise Unfit(f"{os.fspath(path)}: has {readable(size)}, expected at most {readable(limit)}")
        return stream.read(size)


def read_text(path: str | os.PathLike[str], limit: int = TEXT) -> str:
    """The content of a regular UTF-8 text file.

    Raises:
        Unfit, OSError: as :func:`read_bytes`; it is not UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unfit(f"{os.fspath(path)}: not a text file ({error.reason} at byte {error.start})") from error


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        Unfit: not TOML, too large, or nested too deep.
        OSError: it cannot be read.
    """
    return _parsed(path, read_text(path), tomllib.loads, "a TOML file")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        Unfit: not JSON, too large, or nested too deep.
        OSError: it cannot be read.
    """
    return _parsed(path, read_text(path, LISTING), json.loads, "JSON")


def _parsed(path: str | os.PathLike[str], text: str, parse: Callable[[str], Any], kind: str) -> Any:
    """The value that ``parse`` makes of the text of a file, unless it is nested too deep."""
    try:
        value = parse(text)
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unfit(f"{os.fspath(path)}: not {kind} ({told})") from error
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer if isinstance(outer, list) else ())
        ]
        if not level:
            return value
    raise _too_deep(path)


def _too_deep(path: str | os.PathLike[str]) -> Unfit:
    return Unfit(f"{os.fspath(path)}: is nested too deep, expected at most {DEEPEST} tables and lists in another")


def file_name(name: str, what: str) -> str:
    """The name itself, if it can be the name of a file; ``what`` it names, for the message.

    Raises:
        Unfit: it holds anything but letters, digits and ``-_.+``, begins with a dot, or is too long.

    >>> file_name("sam-rho0.1", "an arm")
    'sam-rho0.1'
    >>> file_name("../../etc/passwd", "an arm")
    Traceback (most recent call last):
    landscape.inputs.Unfit: '../../etc/passwd' cannot name an arm; use letters, digits and -_.+, ...
    """
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= LONGEST_NAME else f"{name[:20]}…{name[-20:]}"
        raise Unfit(
            f"{shown!r} cannot name {what}; use letters, digits and -_.+, at most {LONGEST_NAME}, no dot at the "
            "beginning"
        )
    return name


def as_file_name(text: str) -> str:
    """A name for a file, from any text; different texts that would look alike end in a digest of theirs.

    >>> as_file_name("plane_mixed"), as_file_name("../x")
    ('plane_mixed', 'x-d6b96a97')
    """
    if _NAME.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    spelled = re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip(".-")[: LONGEST_NAME - 9].rstrip(".-")
    return f"{spelled}-{digest}" if spelled else digest


def inside(folder: Path, name: str, suffix: str = "") -> Path:
    """The path of a file of that name, and with that suffix, in a folder; a link out of the folder is refused.

    Raises:
        Unfit: as :func:`file_name`, or the file lies elsewhere.
    """
    path = folder / f"{file_name(name, 'a file')}{suffix}"
    root = Path(os.path.realpath(folder))
    if Path(os.path.realpath(path)).parent != root:
        raise Unfit(f"{path}: leads to {os.path.realpath(path)}, outside of {folder}; remove the link")
    return path


def output(path: str | os.PathLike[str]) -> Path:
    """Give the file to write for ``path``: the path itself, or the file to which it is a symbolic link.

    Raises:
        Unfit: the link leads nowhere, or there is something that is not a regular file.
    """
    path = Path(path)
    if path.is_symlink():
        if not path.exists():
            raise Unfit(f"{path}: is a symbolic link to {os.readlink(path)}, which is not there; remove the link")
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():  # folders are refused where files are expected, in other words
        check_regular(path)
    return path
