"""The script for an accelerator runs at small size on a CPU, so that it works when there is one to run it on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_accelerator_script_measures_steps_products_and_surfaces(tmp_path: Path) -> None:
    out = tmp_path / "accelerator.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "accelerator.py"), "--device", "cpu", "--small"]
    done = subprocess.run([*command, "--rounds", "1", "--out", str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {"bare loop", "ncsam, bf16"} <= set(found["training steps"])
    assert {"auto", "double_backward"} == set(found["Hessian products"])
    assert all(
        work["median"] > 0
        for group in ("training steps", "Hessian products", "surfaces")
        for work in found[group].values()
    )
    assert found["environment"]["device"] == "cpu"
