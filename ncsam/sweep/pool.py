"""Cells in a pool of processes, one thread each: a worker that dies costs nothing but what it was doing."""

from __future__ import annotations

import dataclasses
import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from landscape.store.lock import Held
from ncsam.sweep.cells import Cell

logger = logging.getLogger(__name__)

AGAIN = 2.0  # seconds until a cell that another process is at is tried again
TRIES = 3  # times that a cell whose process was killed is tried again
Progress = Callable[[Iterable[Any], int], Iterable[Any]]
_IMPORTED = (  # by a worker and its first cell; an optimizer of torch imports the last
    *("ncsam.sweep.cells", "landscape.spectrum.adaptive"),
    *("scipy.stats", "sklearn.datasets", "sklearn.model_selection", "torch._dynamo"),
)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A cell that did not complete, and why in one line."""

    cell: Cell
    reason: str


class Sources:
    """Cells that others replay: which of them have not ended yet, and which failed."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._pending, self._failed = {cell.name for cell in cells}, set[str]()

    def note(self, end: Cell | Failure) -> None:
        """Note that a cell has ended."""
        cell = end.cell if isinstance(end, Failure) else end
        self._pending.discard(cell.name)
        if isinstance(end, Failure):
            self._failed.add(cell.name)

    def ended(self, cell: Cell) -> bool:
        """Tell whether what ``cell`` replays, if anything, has ended; what is not among these cells, was before."""
        return cell.replays not in self._pending

    def failure_of(self, cell: Cell) -> Failure | None:
        """The failure of ``cell`` where what it replays has failed."""
        if cell.replays not in self._failed:
            return None
        return Failure(cell, f"the run that it replays, {cell.replays}, failed; mend that and --resume")


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int = 2,
    command: list[str] | None = None,
    progress: Progress = lambda items, total: items,
) -> list[Failure]:
    """Run every cell into ``folder``, in ``workers`` processes with one thread each; what is complete is kept.

    Where a worker is killed (by a system short of memory, say), the cells that were being run are tried again, after
    the others, as often as :data:`TRIES` says; from the second time on each is run alone, so that the one whose process
    dies is known. A cell that replays another one is run when that is complete, and fails where that failed. An
    exception here, Ctrl-C among them, ends the workers; what their part files hold is not lost.

    Args:
        command: the command line, for the record.
        progress: ``wrap(items, total)`` around the iteration over cells as they end.

    Returns:
        What failed; all others are complete.
    """
    ends = _ends(deque(cells), folder, workers, command)
    return [end for end in progress(ends, len(cells)) if isinstance(end, Failure)]


def _ends(cells: Sequence[Cell], folder: Path, workers: int, command: list[str] | None) -> Iterator[Cell | Failure]:
    """Every cell when it is complete, or its failure."""
    waiting, suspects, deaths = deque(cells), deque[Cell](), Counter[str]()
    sources = Sources(cells)
    while waiting or suspects:
        ready = any(map(sources.ended, waiting))
        together, processes = (waiting, workers) if ready else (deque([suspects.popleft()]), 1)
        broken: list[Cell] = []
        busy: list[Cell] = []
        for end in _until_broken(together, folder, processes, command, broken, busy, sources):
            sources.note(end)
            yield end
        if busy and not waiting:
            time.sleep(AGAIN)
        waiting.extend(busy)
        for cell in broken:
            deaths[cell.name] += 1
            if deaths[cell.name] > TRIES:
                end = Failure(cell, f"its process was killed {deaths[cell.name]} times; is memory short?")
                sources.note(end)
                yield end
            else:
                (waiting if deaths[cell.name] == 1 else suspects).append(cell)


def _until_broken(
    waiting: deque[Cell],
    folder: Path,
    workers: int,
    command: list[str] | None,
    broken: list[Cell],
    busy: list[Cell],
    sources: Sources,
) -> Iterator[Cell | Failure]:
    """Run what is waiting until all ended or a worker died; ``broken`` then has the cells that were being run.

    ``busy`` gets those that another process is at, one of an overlapping shard: they are to be tried again. What is to
    replay one of these goes on waiting.
    """
    running: dict[Future[None], Cell] = {}
    with _pool(workers) as pool:
        while (running or any(map(sources.ended, waiting))) and not broken:
            # Never more than there are workers, so that what is running is known when one of them dies.
            while len(running) < workers and not broken:
                cell = next(filter(sources.ended, waiting), None)
                if cell is None:
                    break
                waiting.remove(cell)
                if (failure := sources.failure_of(cell)) is not None:
                    yield failure
                    continue
                try:
                    running[pool.submit(_run_cell, cell, folder, command)] = cell
                except BrokenProcessPool:
                    broken.append(cell)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    broken.append(cell)
                elif isinstance(error, Held):
                    logger.info("%s; it is tried again until then", error)
                    busy.append(cell)
                else:
                    yield cell if error is None else Failure(cell, one_line(error))
        broken.extend(running.values())


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are gone afterwards, those in the middle of a cell too if it is left by an exception."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, _context(), _start_worker, (dict(os.environ),))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    pool.shutdown()


def _context() -> BaseContext:
    """How workers start: forked from a process of one thread that has imported what they need, and done nothing else.

    A worker that imports everything itself takes as long to start as to train and measure a small cell. The process
    forked from is started by the first sweep and ends with this one.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    return context


def _start_worker(environment: dict[str, str]) -> None:
    import numpy as np
    import torch

    from ncsam.optimizers.sharpness_aware import ProjectionWarning

    gc.freeze()  # what was imported stays, so it need not be searched for garbage over and over
    os.environ.clear()  # which is that of the first sweep
    os.environ.update(environment)
    np.random.seed()  # noqa: NPY002 - the state that a fork has is that of every other
    torch.set_num_threads(1)
    # Ctrl-C reaches every process of the terminal; the parent decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # How much the projection discards is a column of every run; a line on the terminal a run would bury the rest.
    warnings.simplefilter("ignore", ProjectionWarning)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_cell(cell: Cell, folder: Path, command: list[str] | None) -> None:
    cell.run(cell.path(folder), command)


def one_line(error: BaseException) -> str:
    """Kind and first line of an error.

    >>> one_line(ValueError("impossible\\nfor two reasons"))
    'ValueError: impossible'
    """
    if isinstance(error, SystemExit):
        return f"the model or the data ended the program (sys.exit with {error.code!r})"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
