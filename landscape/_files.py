"""Files that are replaced as a whole, and folders that are filled as a whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give the path of a file to be written, which takes the place of ``path`` in one step when the block ends.

    It lies beside ``path``. After an exception it is removed, and ``path`` is what it was; what a kill leaves, the next
    call replaces.

    Args:
        shared: whether other processes may write the same ``path`` at once; the name is then unique to this one.

    Raises:
        OSError: the folder is missing, or the file system refused.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder) / "a.txt"
    ...     with replacing(target) as temporary:
    ...         _ = temporary.write_text("whole")
    ...     target.read_text(), len(list(Path(folder).iterdir()))
    ('whole', 1)
    """
    temporary = path.with_name(f".{path.name}{f'.{secrets.token_hex(4)}' if shared else ''}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folders_for(*files: Path | None) -> Iterator[None]:
    """Make the folders for the files of a block; after an exception those that are still empty are removed.

    Raises:
        OSError: something that is no folder is in the way, or the file system refused.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     target = Path(parent) / "new" / "a.txt"
    ...     with folders_for(target):
    ...         _ = target.write_text("a")
    ...     target.exists()
    True
    """
    made: list[Path] = []
    try:
        for file in filter(None, files):
            made[:0] = [folder for folder in file.absolute().parents if not folder.exists()]
            file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:  # the deepest first
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Give a new folder for files that all move into ``folder`` when the block ends; what is there already stays.

    It lies beside ``folder``. After an exception it is removed, and ``folder`` is what it was; what a kill leaves, the
    next call removes.

    Raises:
        OSError: the folder above is missing, or the file system refused.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     target = Path(parent) / "pictures"
    ...     with filling(target) as draft:
    ...         _ = (draft / "a.txt").write_text("whole")
    ...     [path.name for path in target.iterdir()], len(list(Path(parent).iterdir()))
    (['a.txt'], 1)
    """
    draft = folder.with_name(f".{folder.name}.tmp")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if draft.is_dir():
        shutil.rmtree(draft)
    draft.mkdir()
    try:
        yield draft
        if not folder.exists():
            os.rename(draft, folder)  # all of it in one step
        else:
            for path in sorted(draft.iterdir()):
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
