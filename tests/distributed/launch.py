"""Starts processes that run one function of the tests together over gloo, and reads back what each of them found."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WAIT = 900  # seconds: on a machine that does other work, processes that take turns wait long for each other


def together(work: str, size: int) -> list[dict[str, Any]]:
    """What ``module:function`` of this package returns on each of ``size`` processes, through JSON."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        running = [
            subprocess.Popen(
                [sys.executable, "-m", __name__, work, str(rank), str(size), f"{folder}/rendezvous"],
                cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(size)
        ]  # fmt: skip
        try:
            done = [process.communicate(timeout=2 * WAIT) for process in running]
        finally:
            for process in running:
                process.kill()
    assert not any(process.returncode for process in running), "\n".join(errors for _, errors in done)
    return [json.loads(out.splitlines()[-1]) for out, _ in done]


def _main(work: str, rank: str, size: str, rendezvous: str) -> None:
    import faulthandler

    import torch
    import torch.distributed as dist

    faulthandler.dump_traceback_later(WAIT, exit=True)  # where it hangs, if it does
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(size))
    module, _, function = work.partition(":")
    found = getattr(importlib.import_module(f"tests.distributed.{module}"), function)()
    sys.stdout.write(f"{json.dumps(found)}\n")
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of torch have been seen to abort a process that was done while it shut down


if __name__ == "__main__":
    _main(*sys.argv[1:])
