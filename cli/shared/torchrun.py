"""The processes that ``torchrun`` starts: they train or measure together, and one of them speaks."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from landscape.ranks import Ranks

SHARED = ("train", "hessian", "surface", "sharpness", "diagnose")
_PATIENCE = datetime.timedelta(days=1)  # that a process is gone shows at once; that one works long is no failure
_state: dict[str, Any] = {"ranks": None, "store": None, "stderr": None}


def launched() -> bool:
    """Tell whether this is one of the processes of ``torchrun``."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextlib.contextmanager
def first_process_prints() -> Iterator[None]:
    """Send what all processes but the first print nowhere."""
    _state.update(ranks=None, store=None, stderr=sys.stderr)
    if not launched() or os.environ["RANK"] == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def join(arguments: Sequence[str]) -> None:
    """Meet the other processes of ``torchrun``, for a command that shares its work; nothing without ``torchrun``.

    Raises:
        click.UsageError: the command, or the device, is not for several processes.
    """
    if not launched() or not {"--help", "--help-all", "-h", "--version"}.isdisjoint(arguments):
        return
    size, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    command = next((word for word in arguments if not word.startswith("-")), "")
    if command not in SHARED:
        if size > 1:
            raise click.UsageError(f"{command or 'this'} runs in one process; torchrun is for {', '.join(SHARED)}")
        return
    import torch
    import torch.distributed as dist

    from landscape.ranks import Ranks

    gpus = torch.cuda.device_count()
    device = _device(arguments)
    if device.startswith("cuda") and size > 1:
        if ":" in device or local >= gpus:
            raise click.UsageError(f"--device is {device}, with {gpus} GPUs here; give `cuda`, and one process a GPU")
        torch.cuda.set_device(local)
    store, rank, size = next(dist.rendezvous("env://", timeout=_PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if gpus and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    _state.update(ranks=Ranks(), store=store)


def leave() -> None:
    """Part from the others once all is done."""
    if _state["ranks"] is not None:
        import torch.distributed as dist

        dist.destroy_process_group()
    _state.update(ranks=None, store=None)


def ranks() -> Ranks | None:
    """The processes that work together, if ``torchrun`` started them."""
    found: Ranks | None = _state["ranks"]
    return found


def error_stream() -> IO[str] | None:
    """The stream on which to say why the job ends; none if another process, the first to ask, says it."""
    if not launched():
        return sys.stderr
    if _state["store"] is None:
        return sys.stderr if os.environ["RANK"] == "0" else None
    try:
        first = _state["store"].add(f"landscape/said/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except RuntimeError:  # the store went with the process that held it
        first = True
    stderr: IO[str] = _state["stderr"]
    return stderr if first else None


def program(arguments: Sequence[str] = ()) -> str | None:
    """Give the command that these processes were started by, if they were, such that ``arguments`` can follow it."""
    if not launched():
        return None
    count, here = os.environ["WORLD_SIZE"], os.environ["LOCAL_WORLD_SIZE"]
    where = f"--standalone --nproc-per-node {count}" if count == here else "(the same options on every machine)"
    mistaken = any(word.partition("=")[0] == "--log" for word in arguments)  # by torchrun, for options of its own
    return f"torchrun {where} -m {'-- ' if mistaken else ''}landscape_cli"


def process_label() -> str:
    """This process among the others, before what it says; empty where it is alone or the first."""
    if not launched() or os.environ["RANK"] == "0":
        return ""
    return f"process {os.environ['RANK']} of 0…{int(os.environ['WORLD_SIZE']) - 1}: "


def _device(arguments: Sequence[str]) -> str:
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--device":
            return following
        if word.startswith("--device="):
            return word.partition("=")[2]
    return "cpu"
