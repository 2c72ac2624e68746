"""Draw the pictures of docs/gallery/ and docs/index.md anew, with the code that stands on these pages.

    python docs/gallery_pages.py

runs the Python of each page in an empty folder and keeps the picture that it saves (a minute on one core).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import torch

DOCS = Path(__file__).parent


def draw(page: Path) -> list[Path]:
    """Run a page's code; the pictures are kept beside the page."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            exec(compile(code, str(page), "exec", dont_inherit=True), {"__name__": "page"})
        finally:
            os.chdir(before)
        return [Path(shutil.copy(picture, page.parent)) for picture in sorted(Path(folder).glob("*.png"))]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for page in sorted(DOCS.glob("gallery/*.md")):
        for picture in draw(page):
            sys.stdout.write(f"{picture.relative_to(DOCS)}: {picture.stat().st_size // 1024} KiB\n")
