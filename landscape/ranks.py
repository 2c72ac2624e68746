"""Processes that share one computation: what they add up, hand around, and split between them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class RankLostError(RuntimeError):
    """Another process of the group is gone, so that nothing can be computed together any more."""


class RanksDisagreeError(RuntimeError):
    """Processes that must go through the same steps with the same numbers do not."""


class Ranks:
    """The processes of a ``torch.distributed`` group, each of which runs the same program on its share of the work.

    Whatever several of them compute together comes out with the same bits on every one, so that decisions which follow
    from it (convergence, a step's direction) are the same everywhere.

    Args:
        group: of processes; all of them if none.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.

    Raises:
        ValueError: there is no process group.

    >>> Ranks()
    Traceback (most recent call last):
        ...
    ValueError: there is no process group; start the processes with torchrun and call init_process_group() in each
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "there is no process group; start the processes with torchrun and call init_process_group() in each"
            )
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("this process does not belong to the process group that was given")

    def __repr__(self) -> str:
        return f"Ranks(rank={self.rank}, size={self.size})"

    def share_of(self, count: int) -> slice:
        """This process's slice of ``count`` things in a row; the slices of two processes differ by at most one."""
        return slice(-(-count * self.rank // self.size), -(-count * (self.rank + 1) // self.size))

    def total(self, part: Tensor, same: Tensor | None = None) -> Tensor:
        """The sum of every process's ``part``, added in the order of ranks, with the same bits on each of them.

        Each process adds up one stretch of the vector and sends it to the others, so what a process sends and receives
        is twice the vector, however many there are.

        Args:
            part: of one shape and dtype everywhere.
            same: what must be equal on all processes for the sum to have a meaning, such as the vector multiplied.

        Raises:
            RanksDisagreeError: ``same`` is not (by the sum of its entries).
            RankLostError: a process is gone.
        """
        flat = part.reshape(-1)
        width = -(-flat.numel() // self.size)
        sent = flat.new_zeros(self.size, width + 1)
        for row, stretch in zip(sent, flat.split(max(width, 1)), strict=False):
            row[: len(stretch)] = stretch
        if same is not None:
            sent[:, -1] = same.double().sum()
        received = torch.empty_like(sent)
        with self._together():
            dist.all_to_all_single(received, sent, group=self.group)
        stamps = received[:, -1]
        if not torch.equal(stamps.nan_to_num(0.0), stamps[:1].nan_to_num(0.0).expand(self.size)):
            raise RanksDisagreeError(
                f"the {self.size} processes are not at the same point or vector; they must run the same program with "
                "the same seeds, on machines of one kind with one version of torch"
            )
        own = received[0, :-1].clone()
        for row in received[1:, :-1]:
            own += row
        whole = own.new_empty(self.size, width)
        with self._together():
            dist.all_gather(list(whole.unbind()), own, group=self.group)
        return whole.view(-1)[: flat.numel()].view(part.shape)

    def gather(self, value: T) -> list[T]:
        """Every process's value (picklable), in the order of ranks."""
        found: list[Any] = [None] * self.size
        with self._together():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def share(self, make: Callable[[], T], source: int = 0) -> T:
        """Call ``make()`` on the process ``source`` alone; return its result, or raise its error, on every process."""
        box: list[Any] = [None]
        if self.rank == source:
            try:
                box = [(make(), None)]
            except Exception as error:  # whatever it is, the others wait for it
                with self._together():
                    self._send([(None, _picklable(error))], source)
                raise
        with self._together():
            self._send(box, source)
        value, failure = box[0]
        if failure is not None:
            raise failure
        found: T = value
        return found

    def rows(self, own: Tensor) -> Tensor:
        """The rows of every process's tensor, one below the other; they may have any number of rows."""
        counts = self.gather(len(own))
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        whole = [torch.empty_like(padded) for _ in counts]
        with self._together():
            dist.all_gather(whole, padded, group=self.group)
        return torch.cat([rows[:count] for rows, count in zip(whole, counts, strict=True)])

    def _send(self, box: list[Any], source: int) -> None:
        origin = source if self.group is None else dist.get_global_rank(self.group, source)
        dist.broadcast_object_list(box, origin, group=self.group)

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo's and NCCL's own have no class in common
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RankLostError(f"another of the {self.size} processes was lost ({line[:200]})") from error


def on_first(make: Callable[[], T], ranks: Ranks | None) -> T:
    """Return on all processes what ``make()`` gives on the first: for files, clocks, and work that is not shared.

    Args:
        ranks: the processes, all of which call this; none if this is the only one.

    Raises:
        Exception: whatever ``make()`` raises, on all of them.

    >>> on_first(lambda: 2, None)
    2
    """
    return make() if ranks is None else ranks.share(make)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a class that cannot be rebuilt from its arguments
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
