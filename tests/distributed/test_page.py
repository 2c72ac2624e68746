"""The commands of the page *On a cluster* that share one analysis run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ncsam import Run

ROOT = Path(__file__).parents[2]
SECTIONS = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").split("\n## ")
SECTION = next(section for section in SECTIONS if section.startswith("One big analysis"))
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the commands are written for a Unix shell")
def test_the_section_runs_from_top_to_bottom(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in {"torchrun": "torch.distributed.run", "landscape": "landscape_cli"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    output = ""
    for language, block in BLOCKS:
        if language == "python":
            script = block.splitlines()[0].removeprefix("# ")
            (tmp_path / script).write_text(block, encoding="utf-8")
            continue
        done = subprocess.run(
            ["sh", "-ec", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        output += done.stdout
    names = Run(tmp_path / "run.h5").names
    assert {"hessian/default", "surface/plane", "sharpness/default", "diagnostics/default"} <= set(names)
    assert len(output.splitlines()) > 20
