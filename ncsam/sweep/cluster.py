"""Cells on a Dask cluster: the scheduler gives each to a worker, whose death costs nothing but what it was doing.

Cells are sent as plain data, and their outcomes come back as plain data. A cell whose worker dies goes to another one,
where it goes on from its last state, as often as the scheduler's ``allowed-failures`` says (3 by default); after that
this cell alone fails. No more cells are handed over than there are workers, so that none waits behind one that kills
its worker and is suspected together with it. A cell is not run while another process holds its lock, which may be a
worker that the scheduler has lost sight of: the cell is handed over again later, and its run is then found finished.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import queue
import re
import secrets
import socket
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from landscape._version import __version__
from landscape.inputs import readable
from landscape.store import StoreError
from landscape.store.lock import Held, sole
from landscape.store.provenance import code_digest
from landscape.store.temporary import temporary_file
from ncsam.sweep.cells import Cell
from ncsam.sweep.pool import AGAIN, Failure, Progress, Sources, one_line

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

logger = logging.getLogger(__name__)

Token = tuple[str, str]
"""Path of a file in the sweep's folder, and what it holds."""
_ADDRESS = re.compile(r"(?P<kind>tcp|tls|ws|wss)://(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
POLL = 1.0  # seconds between looks at the workers while no cell ends
COMPLETE, FAILED, BUSY, UNFIT = "complete", "failed", "busy", "unfit"


class Cluster:
    """A Dask cluster whose workers see the folder of the sweep; a context manager that closes the connection.

    Args:
        scheduler: address such as ``tcp://host:8786``, or a ``distributed.Client``, which stays open.
        timeout: seconds in which the scheduler must answer.

    Raises:
        ImportError: dask.distributed is not installed.
        ValueError: the address is spelled wrongly.
        ConnectionError: no scheduler answers there.
    """

    def __init__(self, scheduler: str | Client, *, timeout: float = 5.0) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise ImportError("a cluster needs dask.distributed: pip install 'dask[distributed]'") from error
        if isinstance(scheduler, str):
            _reach(scheduler, timeout)
        self._close = isinstance(scheduler, str)
        if not isinstance(scheduler, str):
            self._client = scheduler
        else:
            try:
                self._client = Client(scheduler, timeout=timeout, set_as_default=False)
            except Exception as error:  # whatever speaks there, if it is no scheduler
                raise _no_answer(scheduler, timeout) from error
        self.address = str(self._client.scheduler.address)
        self._alone = False  # whether it was said that there is no worker
        self._paused: set[str] = set()  # workers of which it was said that they are paused
        self._asked_at = -POLL

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._close:
            self._client.close()

    def workers(self) -> int:
        """Count the workers there are now that take cells; those that Dask has paused are told of, once.

        Raises:
            ConnectionError: the scheduler is gone.
        """
        try:
            if self._client.status != "running":
                raise self._lost()
            if time.monotonic() - self._asked_at >= POLL:
                self._note_paused()
            return len(self._client.nthreads().keys() - self._paused)
        except OSError as error:
            raise self._lost() from error

    def _note_paused(self) -> None:
        """Warn of workers that have been paused since the last call."""
        found: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        paused = {address for address, worker in found.items() if worker.get("status") == "paused"}
        for address in sorted(paused - self._paused):
            logger.warning(
                "worker %s is paused: it uses most of the %s of memory that Dask grants it, and takes no cells until "
                "it uses less; start workers with a larger --memory-limit (0 for none), or fewer of them on a machine",
                address, readable(found[address].get("memory_limit") or 0),
            )  # fmt: skip
        self._paused, self._asked_at = paused, time.monotonic()

    def check(self, path: Path) -> None:
        """Refuse workers that would not run cells as this process does, before any cell is run.

        Args:
            path: of a file that the workers must see at the same place, and whose lock must hold there too.

        Raises:
            ValueError: a worker with other versions, or more than one thread, or without the folder.
            StoreError: another process is starting a sweep in the folder.
        """
        path = path.absolute()
        with folder_token(path.parent) as token:
            self._ask(unfit, versions(), token)
        with sole(path, "check", "another process is starting a sweep here; try again"):
            self._ask(unlocked, str(path))

    def run_cells(
        self,
        cells: Sequence[Cell],
        folder: Path,
        *,
        command: list[str] | None = None,
        progress: Progress = lambda items, total: items,
    ) -> list[Failure]:
        """Run every cell into ``folder``, as :func:`ncsam.sweep.run_cells` does here; what is complete is kept.

        An exception here, Ctrl-C among them, cancels what is pending; cells that workers are running are finished
        there.

        Raises:
            ConnectionError: the scheduler is gone.
            ValueError: a worker joined that :meth:`check` would have refused.
        """
        folder = folder.absolute()
        with folder_token(folder) as token, contextlib.closing(self._ends(cells, folder, token, command)) as ends:
            return [end for end in progress(ends, len(cells)) if isinstance(end, Failure)]

    def _ends(
        self, cells: Sequence[Cell], folder: Path, token: Token, command: list[str] | None
    ) -> Generator[Cell | Failure, None, None]:
        """Every cell when it is complete, or its failure."""
        sources = Sources(cells)
        waiting = deque((0.0, cell) for cell in cells)  # the earliest time to hand it over, ascending
        running: dict[Any, tuple[Future, Cell]] = {}
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        # No key twice: the scheduler would answer with what it still holds of a cancelled or busy cell.
        keys = (f"{secrets.token_hex(4)}-{number}" for number in itertools.count())
        told: set[str] = set()
        try:
            while waiting or running:
                free = self._wanted(len(running))
                now = time.monotonic()
                while free > 0 and (due := next((w for w in waiting if w[0] <= now and sources.ended(w[1])), None)):
                    waiting.remove(due)
                    _, cell = due
                    if (failure := sources.failure_of(cell)) is not None:
                        sources.note(failure)
                        yield failure
                        continue
                    future = self._submit(cell, folder, token, command, f"{cell.name}-{next(keys)}")
                    running[future.key] = future, cell
                    future.add_done_callback(ended.put)
                    free -= 1
                try:
                    future = ended.get(timeout=POLL)
                except queue.Empty:
                    continue
                _, cell = running.pop(future.key)
                end = self._end(future, cell)
                if isinstance(end, Held):
                    if cell.name not in told:
                        logger.warning("%s; it is tried again until then", end)
                    told.add(cell.name)
                    waiting.append((time.monotonic() + AGAIN, cell))
                else:
                    sources.note(end)
                    yield end
        finally:
            if running and self._client.status == "running":
                with contextlib.suppress(OSError):  # the scheduler is going away, and with it what is pending
                    self._client.cancel([future for future, _ in running.values()], force=True)

    def _ask(self, question: Callable[..., str | None], *arguments: Any) -> None:
        """Ask every worker what is wrong with it."""
        try:
            answers = self._client.run(question, *arguments, on_error="return")
        except OSError as error:
            raise self._lost() from error
        for address, answer in sorted(answers.items()):
            if isinstance(answer, Exception):  # it does not know the question
                found: Any = self._client.get_versions(packages=["ncsam-landscape"])
                there = found["workers"][address]["packages"]["ncsam-landscape"] or "none"
                answer = (
                    f"has ncsam-landscape: {there}, here it is {__version__} ({one_line(answer)}); install the same"
                )
            if answer is not None:
                raise ValueError(f"worker {address} {answer}")

    def _wanted(self, running: int) -> int:
        """Count the cells that the workers can still take."""
        workers = self.workers()
        if not workers and not self._paused and not self._alone:
            logger.warning("no worker at %s; waiting for one: dask worker %s --nthreads 1", self.address, self.address)
        self._alone = not workers
        return workers - running

    def _submit(self, cell: Cell, folder: Path, token: Token, command: list[str] | None, key: str) -> Future:
        try:
            return self._client.submit(
                run_cell, json.dumps(cell.to_dict()), str(folder), versions(), token, command, key=key, pure=False
            )
        except OSError as error:
            raise self._lost() from error

    def _end(self, future: Future, cell: Cell) -> Cell | Failure | Held:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        try:
            kind, text = future.result()
        except KilledWorker as error:
            deaths = error.allowed_failures + 1
            reason = f"its worker died {deaths} times, the last time {error.last_worker.address}; is memory short?"
            return Failure(cell, reason)
        except (CancelledError, OSError) as error:
            raise self._lost() from error
        except Exception as error:  # run_cell itself raises nothing: it could not be run
            raise ValueError(f"a worker cannot run cells ({one_line(error)}); install ncsam-landscape there") from error
        if kind == UNFIT:
            raise ValueError(text)
        if kind == BUSY:
            return Held(text)
        return cell if kind == COMPLETE else Failure(cell, text)

    def _lost(self) -> ConnectionError:
        return ConnectionError(f"the Dask scheduler at {self.address} is gone; what is complete is kept")


def versions() -> dict[str, str]:
    """Versions and settings that must be the same wherever cells of one sweep are run."""
    import numpy
    import torch

    return {
        "ncsam-landscape": __version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "code": code_digest(),
    }


@contextlib.contextmanager
def folder_token(folder: Path) -> Iterator[Token]:
    """A file in ``folder`` while the context lasts, and what it says: who can read it there sees the same folder."""
    secret = secrets.token_hex(16)
    with temporary_file(folder / "token") as disk:
        disk.write(secret.encode())
        disk.sync()
        yield str(disk.path), secret


def _reach(address: str, timeout: float) -> None:
    """Refuse an address that is none, or at which nothing listens, before Dask tries it for long."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise ValueError(f"--scheduler is {address!r}, expected an address such as tcp://host:8786")
    if found["kind"] in ("tls", "wss"):
        import dask

        if dask.config.get("distributed.comm.tls.ca-file", None) is None:
            raise ValueError(f"{address} needs certificates, and Dask's configuration has none (distributed.comm.tls)")
    try:
        with socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout) as connection:
            # A scheduler greets first; for what never does, Dask would wait for ever
            greeted = found["kind"] != "tcp" or connection.recv(1)
    except (OSError, UnicodeError) as error:
        raise _no_answer(address, timeout) from error
    if not greeted:
        raise _no_answer(address, timeout)


def _no_answer(address: str, timeout: float) -> ConnectionError:
    return ConnectionError(
        f"no Dask scheduler answers at {address} within {timeout:g} s; start one with `dask scheduler` "
        "and give the address that it prints, such as tcp://host:8786"
    )


def run_cell(
    cell: str, folder: str, expected: Mapping[str, str], token: Token, command: list[str] | None = None
) -> tuple[str, str]:
    """Run, on a worker, the cell that is spelled in JSON; returns its outcome, and the reason in one line."""
    import torch
    from distributed import get_worker

    from ncsam.optimizers.sharpness_aware import ProjectionWarning

    worker = get_worker()
    try:
        problem = unfit(expected, token, worker)
    except Exception as error:  # one that Dask cannot send would leave the client waiting for ever
        problem = f"cannot tell whether it may run cells ({one_line(error)})"
    if problem is not None:
        return UNFIT, f"worker {worker.address} {problem}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            # How much the projection discards is a column of every run; a line a run would bury the worker's log.
            warnings.simplefilter("ignore", ProjectionWarning)
            found = Cell.from_dict(json.loads(cell))
            found.run(found.path(Path(folder)), command)
    except Held as error:
        return BUSY, str(error)
    except (Exception, SystemExit) as error:
        return FAILED, one_line(error)
    finally:
        torch.set_num_threads(threads)
    return COMPLETE, ""


def unfit(expected: Mapping[str, str], token: Token, dask_worker: Worker) -> str | None:
    """Tell, on a worker, why its runs would differ from those of the ``expected`` versions; None if they would not."""
    found = versions()
    different = [name for name in expected if found.get(name) != expected[name]]
    if different:
        there, here = (", ".join(f"{n} {v.get(n, 'unknown')}" for n in different) for v in (found, expected))
        return f"has {there}, where the sweep was started it is {here}; install the same in both places"
    if (threads := dask_worker.state.nthreads) != 1:
        return f"runs {threads} tasks at a time in one process; start it with --nthreads 1 (and --nworkers {threads})"
    path, secret = token
    try:
        seen = Path(path).read_text(encoding="ascii") == secret
    except (OSError, UnicodeDecodeError):
        seen = False
    if not seen:
        folder = Path(path).parent
        return f"does not see {folder}, or another of that name; use one that all machines have under the same path"
    return None


def unlocked(path: str) -> str | None:
    """Tell, on a worker, why two processes could write one file whose lock is held; None if they cannot."""
    try:
        with sole(Path(path), "check", ""):
            return f"does not see locks of other machines on {path}; use a file system with working locks"
    except Held:
        return None
    except StoreError as error:
        return f"refuses: {error}"
