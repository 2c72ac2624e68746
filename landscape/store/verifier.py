"""Verifying files: is every bit what was written, and does it say what the schema promises?

HDF5 itself is not safe on damaged bytes. So it opens a finished file here only if the file's seal is unbroken; which
objects of a damaged file are lost is found out in a separate process, with a time limit.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from landscape.inputs import Unfit
from landscape.store import layouts, manifest, schema, seal, writer
from landscape.store.errors import StoreError, one_line
from landscape.store.part_file import PART, progress
from landscape.store.reader import REMEDY, File

TIME_LIMIT = 20.0  # seconds, on top of what reading the file at SLOWEST takes
SLOWEST = 10e6  # bytes per second
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from landscape.store.verifier import integrity
sys.stdout.write(json.dumps(integrity(sys.argv[2])))
"""


def verify(path: str | Path) -> list[str]:
    """Everything that is wrong with a finished file or a part file, one line each; empty where nothing is.

    Checked are the seal over all bytes, the schema version, the SHA-256 of every object, the layout of the file and of
    every record of a known kind, status codes, and that values whose status is ok are finite.

    >>> import tempfile, numpy as np
    >>> from landscape import store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "run.h5")
    ...     store.create(path, kind="result", attrs={}, contents={"weights/last": {"bias": [0.5]}})
    ...     before = store.verify(path)
    ...     _ = path.write_bytes(path.read_bytes().replace(np.float64(0.5).tobytes(), np.float64(0.7).tobytes()))
    ...     for problem in [*before, *store.verify(path)]:
    ...         problem
    'its bytes do not match the SHA-256 at its end: it was damaged, or changed by another program'
    '/weights/last/bias does not match its SHA-256 in the manifest'
    """
    path = Path(path)
    try:
        if path.suffix == PART:
            path.stat()
            return _part_problems(path)
        seal.check(path)
    except OSError as error:
        return [f"it cannot be read ({error.strerror}); check the path"]
    except Unfit as error:
        return [str(error).removeprefix(f"{path}: ")]
    except StoreError as error:
        # That HDF5 cannot open it either says nothing more of a file that is cut short
        told = [str(error), *_in_a_process_apart(path)]
        return told[:1] + [line for line in told[1:] if not line.startswith(f"{path}: opening failed")]
    return integrity(path) or meaning(path)


def check_seal(path: str | Path) -> None:
    """Refuse a finished file that was cut short or changed, before hours are spent on a result to be added to it.

    Raises:
        StoreError: it was, or cannot be read.
    """
    with one_line(path, "reading", "check the path and its permissions"):
        seal.check(Path(path))


@contextlib.contextmanager
def checked_writes() -> Iterator[None]:
    """Within this context every file is verified before it is given its name; for test suites.

    Raises:
        StoreError: what was about to be written departs from the schema, with the departures.
    """

    def check(path: Path) -> None:
        found = verify(path)
        if found:
            raise StoreError(f"what was written is not valid: {'; '.join(found)}")

    writer.CHECKS.append(check)
    try:
        yield
    finally:
        writer.CHECKS.remove(check)


def _in_a_process_apart(path: Path) -> list[str]:
    """:func:`integrity`, where HDF5 may crash or hang without harm."""
    limit = TIME_LIMIT + path.stat().st_size / SLOWEST
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), str(path)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        return [f"HDF5 did not finish reading it within {limit:.0f} s"]
    except subprocess.CalledProcessError as error:
        return [f"HDF5 crashed on reading it (status {error.returncode})"]
    problems: list[str] = json.loads(child.stdout)
    return problems


def integrity(path: str | Path) -> list[str]:
    """Read every byte of every object, in this process, and compare it with the checksums the file carries."""
    try:
        with File(path) as file:
            return list(_mismatches(file))
    except StoreError as error:
        return [str(error).removesuffix(f"; {REMEDY}")]


def _mismatches(file: File) -> Iterator[str]:
    expected = dict(file.manifest())
    try:
        for path, found in manifest.objects(file.h5, file.size):
            if path not in expected:
                yield f"{path} is not in the manifest"
                continue
            wanted = expected.pop(path)
            try:
                actual = manifest.digest(found, file.size, wanted)
            except Exception as error:  # as wide as errors.one_line, for the same reason
                yield f"{path} cannot be read ({error})"
                continue
            if actual != wanted:
                yield f"{path} does not match its SHA-256 in the manifest"
    except Exception as error:
        yield f"the tree of groups cannot be walked ({error})"
        return
    yield from (f"{path} is in the manifest but not in the file" for path in expected)


def _part_problems(path: Path) -> list[str]:
    try:
        damaged = progress(path).damaged
    except StoreError as error:
        return [str(error)]
    return [f"rows {damaged} do not match their checksums; resume to compute them again"] if damaged else []


def meaning(path: str | Path) -> list[str]:
    """List what a file whose bytes are sound says wrongly: layout, status codes, promised finite values."""
    try:
        with File(path) as file:
            contents = {name: schema.content_of(file.h5[name], file.size) for name in file.names()}
            found = layouts.problems(file.kind, contents, file.attrs.get("source"))
            for name in contents:
                found += schema.problems(file.h5[name], file.size)
            return found
    except StoreError as error:
        return [str(error)]
