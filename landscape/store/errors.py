"""The one exception of the store, and the guard that turns everything HDF5 can raise into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landscape.inputs import Unfit


class StoreError(Exception):
    """A file could not be written, read or trusted; one line says what was wrong, where, and what to do."""


@contextmanager
def one_line(path: str | Path, doing: str, remedy: str) -> Iterator[None]:
    """Re-raise whatever happens inside as a one-line :class:`StoreError`.

    The net is wide on purpose: on damaged bytes h5py raises OSError, KeyError, RuntimeError, ValueError, TypeError,
    UnicodeDecodeError or MemoryError, depending on which byte is damaged.

    >>> with one_line("x.h5", "reading", "copy it again"):
    ...     raise KeyError("unable to open object")
    Traceback (most recent call last):
    landscape.store.errors.StoreError: x.h5: reading failed (unable to open object); copy it again
    """
    try:
        yield
    except StoreError as error:
        if str(path) in str(error):
            raise
        raise StoreError(f"{path}: {error}") from error
    except Unfit as error:
        told = str(error)
        raise StoreError(told if str(path) in told else f"{path}: {told}") from error
    except Exception as error:
        reason = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
        raise StoreError(f"{path}: {doing} failed ({reason or type(error).__name__}); {remedy}") from error
