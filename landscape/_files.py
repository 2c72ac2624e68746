"""Files that are replaced as a whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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
