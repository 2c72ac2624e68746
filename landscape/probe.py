"""A probe of somebody else's training: measures of the model as it goes by, in one growing file."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from landscape import sharpness
from landscape.curvature.operators import HessianOperator
from landscape.inputs import output
from landscape.objective.objective import Objective, check_seed
from landscape.records import Status
from landscape.records.course import Course
from landscape.spectrum import estimators
from landscape.spectrum.eigenpairs import top_eigenpairs
from landscape.store import StoreError, load, save

Own = Callable[[Objective], float]


class _Value(NamedTuple):
    """One measured value, its error and its status."""

    value: float
    error: float = 0.0
    status: Status = Status.OK


class _Kind(NamedTuple):
    """A measure by name: what it calls, on the Hessian or on the objective, and what its error is."""

    function: Callable[..., Any]
    on_hessian: bool
    error: str


_KINDS = {
    "top": _Kind(top_eigenpairs, True, "bound"),
    "trace": _Kind(estimators.trace, True, "standard error"),
    "sam": _Kind(sharpness.sam_sharpness, False, "none"),
    "adaptive": _Kind(sharpness.adaptive_sharpness, False, "none"),
    "average": _Kind(sharpness.average_sharpness, False, "standard error"),
}
_LOSS = "loss"


class Probe:
    """Measures a model during a training in somebody else's loop, whenever it is called, and keeps the results.

    Each measurement evaluates an :class:`Objective` of the model in its present state. Weights, buffers, modes,
    gradients and the global random state stay bitwise as they are; the time it takes is recorded. The results are in
    one file, which is replaced as a whole after each measurement: a :class:`landscape.records.Course`, which
    :func:`landscape.load` reads and ``landscape figure`` draws.

    Args:
        loss_fn: as of :class:`Objective`, with the other arguments below.
        data: what is measured on, fixed; several sources are several views.
        path: the file.
        every: when the callbacks measure, and the unit in which results are counted: ``"epoch"``, or a number of
            optimizer steps.
        measures: names, or a mapping of names to options: ``loss`` (with the objective's metrics; always), ``top``
            (largest Hessian eigenvalue, k = 1 of :func:`landscape.top_eigenpairs`), ``trace``, ``sam``, ``adaptive``,
            ``average`` (needs ``{"sigma": …}``); or a name of your own with a function of the objective of one view.
        seed: of start vectors and probes, the same each time.
        log: called as ``log(name, value, at)`` for each value; TensorBoard's ``writer.add_scalar`` fits.
        resume: continue the file; what is measured anew replaces what was measured there and after.
        overwrite: replace an existing file.
        options: of :class:`Objective`: ``batch_size``, ``forward``, ``metrics``, ``views``, ``checks`` (``first``).

    Raises:
        ValueError: an unknown measure or option, or ``every`` is neither.
        StoreError: the file exists, or holds other measures than those to continue.

    >>> import tempfile, landscape
    >>> model, data = nn.Linear(3, 2), (torch.randn(8, 3), torch.tensor([0, 1] * 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     probe = landscape.Probe(nn.CrossEntropyLoss(), data, f"{folder}/course.h5", measures=("top", "sam"))
    ...     for epoch in range(3):
    ...         values = probe.measure(model, epoch)
    ...     landscape.load(f"{folder}/course.h5")
    Course(loss, accuracy, top, sam at 3 epochs)
    >>> sorted(values)
    ['accuracy', 'loss', 'sam', 'top']
    """

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        data: Any,
        path: str | Path,
        *,
        every: str | int = "epoch",
        measures: Iterable[str] | Mapping[str, Mapping[str, Any] | Own] = ("loss", "top", "sam"),
        seed: int = 0,
        log: Callable[[str, float, float], Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        **options: Any,
    ) -> None:
        if every != "epoch" and (isinstance(every, bool | str) or not isinstance(every, int) or every < 1):
            raise ValueError(f"every is {every!r}, expected 'epoch' or a whole number of optimizer steps from 1 on")
        check_seed(seed)
        self.every, self.seed, self.log = every, seed, log
        self.measures = _checked_measures(measures)
        self._loss_fn, self._data, self._options = loss_fn, data, {"checks": "first", **options}
        self.path = output(path)
        self.course: Course | None = None
        if self.path.exists() and resume:
            self.course = load(self.path, Course)
            self._check_same(self.course)
        elif self.path.exists() and not overwrite:
            raise StoreError(f"{self.path}: the file exists; choose another name, resume=True or overwrite=True")

    @property
    def unit(self) -> str:
        """The unit that measurements are counted in: ``epoch`` or ``step``."""
        return "epoch" if self.every == "epoch" else "step"

    def measure(self, model: nn.Module, at: float) -> dict[str, float]:
        """Measure the model as it is and write the file; the values by measure, ``view/measure`` if there are views.

        In a distributed training the first process measures, the others return nothing at once.

        Args:
            at: the epoch, or the step, in the order of training: what was measured there or later is replaced, as by a
                training that went back to a checkpoint.

        Raises:
            ValueError: ``at`` is not a finite number, or model, loss and data do not make an :class:`Objective`.
        """
        if not math.isfinite(at):
            raise ValueError(f"at is {at}, expected the {self.unit}, a finite number")
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            return {}
        begun = time.monotonic()
        objective = Objective(_inside(model), self._loss_fn, self._data, **self._options)
        found = self._measured(objective)
        self.course = self._with(found, objective.views, float(at), time.monotonic() - begun)
        save(self.course, self.path, overwrite=True)
        several = len(objective.views) > 1
        values = {f"{v}/{m}" if several else m: found[m, v].value for m, v in found}
        if self.log is not None:
            for name, value in values.items():
                self.log(name, value, at)
        return values

    def lightning(self) -> Any:
        """A callback for Lightning's ``Trainer(callbacks=[…])``."""
        import lightning

        probe = self

        class Callback(lightning.Callback):
            last = 0

            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                if probe.every == "epoch":
                    probe.measure(pl_module, trainer.current_epoch + 1)

            def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
                step = trainer.global_step
                if probe.due(step) and step != self.last:  # accumulated batches end without a step
                    self.last = step
                    probe.measure(pl_module, step)

        return Callback()

    def transformers(self) -> Any:
        """A callback for Hugging Face's ``Trainer(callbacks=[…])``."""
        import transformers

        probe = self

        class Callback(transformers.TrainerCallback):
            def on_epoch_end(self, args: Any, state: Any, control: Any, **held: Any) -> None:
                if probe.every == "epoch":
                    probe.measure(held["model"], round(state.epoch))

            def on_step_end(self, args: Any, state: Any, control: Any, **held: Any) -> None:
                if probe.due(state.global_step):
                    probe.measure(held["model"], state.global_step)

        return Callback()

    def due(self, step: int) -> bool:
        """Tell whether an optimizer step, counted from 1, is one to measure at."""
        return isinstance(self.every, int) and step > 0 and step % self.every == 0

    def _measured(self, objective: Objective) -> dict[tuple[str, str], _Value]:
        """Values by measure and view."""
        evaluation = objective.evaluate()
        of_metrics = {name: values for name, values in evaluation.metrics.items() if name not in self.measures}
        found = {}
        for name, values in {_LOSS: evaluation.loss, **of_metrics}.items():
            for view in objective.views:
                value = float(values[view])
                found[name, view] = _Value(value) if math.isfinite(value) else _NOT_FINITE
        for name, given in self.measures.items():
            for view in objective.views:
                finite = found[_LOSS, view].status == Status.OK
                found[name, view] = self._value(name, given, objective.view(view)) if finite else _NOT_FINITE
        return found

    def _value(self, name: str, given: Mapping[str, Any] | Own, objective: Objective) -> _Value:
        try:
            if callable(given):
                value = _Value(float(given(objective)))
            else:
                kind = _KINDS[name]
                result = kind.function(
                    HessianOperator(objective) if kind.on_hessian else objective, **{"seed": self.seed, **given}
                )
                value = _of_pair(result) if name == "top" else _Value(result.value, float(result.stderr or 0.0))
        except FloatingPointError:  # a product that is not finite
            return _NOT_FINITE
        if math.isfinite(value.value) and math.isnan(value.error):
            raise ValueError(f"measure {name!r} has no standard error with these options; let it draw more")
        return value if math.isfinite(value.value) else _NOT_FINITE

    def _settings(self) -> dict[str, Any]:
        own = {name: {} if callable(given) else dict(given) for name, given in self.measures.items()}
        return {"measures": own, "seed": self.seed, "checks": self._options["checks"]}

    def _check_same(self, course: Course) -> None:
        if course.settings != self._settings() or course.unit != self.unit:
            raise StoreError(
                f"{self.path}: was measured each {course.unit} with {course.settings}, this probe measures each "
                f"{self.unit} with {self._settings()}; choose another file"
            )

    def _with(
        self, found: Mapping[tuple[str, str], _Value], views: tuple[str, ...], at: float, seconds: float
    ) -> Course:
        """The course with one measurement more, and without those from ``at`` on, which this training has left."""
        measures = list(dict.fromkeys(measure for measure, _ in found))
        columns = {
            name: np.array([[getattr(found[m, v], name) for v in views] for m in measures])[..., None]
            for name in ("value", "error", "status")
        }
        new = Course(
            measures=np.array(measures),
            views=np.array(views),
            at=np.array([at]),
            seconds=np.array([seconds]),
            unit=self.unit,
            errors=[_KINDS[m].error if m in _KINDS else "none" for m in measures],
            settings=self._settings(),
            **{**columns, "status": columns["status"].astype(np.uint8)},
        )
        old = self.course
        if old is None:
            return new
        if old.measures.tolist() != measures or old.views.tolist() != list(views):
            raise StoreError(
                f"{self.path}: has {', '.join(map(str, old.measures))} of {', '.join(map(str, old.views))}, this "
                f"measurement {', '.join(measures)} of {', '.join(views)}; choose another file"
            )
        kept = old.at < at
        joined = {
            name: np.concatenate([getattr(old, name)[..., kept], getattr(new, name)], axis=-1)
            for name in ("at", "seconds", "value", "error", "status")
        }
        return Course(
            measures=new.measures, views=new.views, unit=new.unit, errors=new.errors, settings=new.settings, **joined
        )


def _inside(model: nn.Module) -> nn.Module:
    """The module in what ``DistributedDataParallel`` and ``torch.compile`` wrapped, whichever came first.

    The wrapper's forward pass waits for all processes, of which one measures.
    """
    while True:
        inner = model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", model)
        if inner is model:
            return model
        model = inner


_NOT_FINITE = _Value(math.nan, math.nan, status=Status.NONFINITE)


def _of_pair(result: Any) -> _Value:
    error = result.residuals[0] if result.errors is None else result.errors[0]
    return _Value(float(result.values[0]), float(error), Status.OK if result.converged[0] else Status.NOT_CONVERGED)


def _checked_measures(
    measures: Iterable[str] | Mapping[str, Mapping[str, Any] | Own],
) -> dict[str, Mapping[str, Any] | Own]:
    """Measures besides the loss, with options that their functions take."""
    if isinstance(measures, str):
        raise TypeError(f"measures is the text {measures!r}, expected names: ({measures!r},)")
    given: dict[str, Any] = dict(measures) if isinstance(measures, Mapping) else {name: {} for name in measures}
    given.pop(_LOSS, None)
    found = {}
    for name, options in given.items():
        if callable(options):
            if name in _KINDS:
                raise ValueError(f"measure {name!r} is one of the probe's own; give your function another name")
        elif name not in _KINDS:
            known = ", ".join([_LOSS, *_KINDS])
            raise ValueError(f"unknown measure {name!r}; known: {known}, or give a function of the objective")
        else:
            _check_options(name, dict(options))
        found[name] = {"k": 1, **options} if name == "top" else options
    return found


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    signature = inspect.signature(_KINDS[name].function)
    taken = list(signature.parameters)[1:]
    for option in options:
        if option not in taken or option == "progress":
            raise ValueError(f"measure {name!r} has no option {option!r}; it takes {', '.join(taken)}")
    for option, declared in list(signature.parameters.items())[1:]:
        if declared.default is inspect.Parameter.empty and option not in options:
            raise ValueError(f"measure {name!r} needs {option}: measures={{{name!r}: {{{option!r}: …}}}}")
