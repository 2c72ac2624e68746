"""Freed memory stays with the process: counted in page faults, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from landscape.objective.process_state import keep_freed_memory
torch.set_num_threads(1)
state = torch.get_rng_state()
keep_freed_memory()
assert torch.equal(state, torch.get_rng_state())

def layers():
    outputs = [torch.ones(2**20) for _ in range(4)]  # 16 MiB, alive together

for _ in range(10):  # until the heap has grown to what is needed
    layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    layers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has other rules for freed memory")
def test_tensors_are_made_of_pages_that_are_there() -> None:
    """Ten times 16 MiB are 40,960 pages of 4 KiB, or 80 of 2 MiB; kept, they are none."""
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 40
