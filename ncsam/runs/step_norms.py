"""Reading the length of the perturbation at every step of a run, from its file or from JSON."""

from __future__ import annotations

from pathlib import Path

from landscape import inputs
from landscape.store import StoreError
from ncsam.records import Steps
from ncsam.runs.run import Run
from ncsam.training.replay import StepNorms


def read_step_norms(source: str | Path) -> StepNorms:
    """‖ε‖ at every step, from a run file, or from a JSON file with what :meth:`StepNorms.to_dict` gives.

    Raises:
        StoreError: the file is missing, damaged, no run file, or of a run without them.
        ValueError: JSON that is something else.
    """
    path = Path(source)
    if path.suffix == ".json":
        try:
            return StepNorms.from_dict(inputs.read_json(path))
        except FileNotFoundError as error:
            raise StoreError(f"{path}: there is no such file; name a run file or a JSON file of step norms") from error
        except ValueError as error:
            told = str(error)
            raise ValueError(told if told.startswith(f"{path}:") else f"{path}: {told}") from error
    return step_norms_of(Run(path))


def step_norms_of(run: Run) -> StepNorms:
    """‖ε‖ at every step of a run.

    Raises:
        StoreError: the run has none: its optimizer perturbs nothing, or it is of a version that did not keep them.
    """
    if "steps" not in run.names:
        raise StoreError(
            f"{run.path}: holds no ‖ε‖ of its steps ({run.config.optimizer}); train a run that perturbs, with this "
            "version of the package"
        )
    steps = run.result("steps")
    assert isinstance(steps, Steps)
    shared = StepNorms.shared_by(run.config, str(run.attrs.get("data_hash")))
    return StepNorms(run.path.stem, steps.perturbation_norm, **shared)
