"""The gradients that eigenvectors of a run are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape import Objective
from ncsam.measurements.directions import simulated_noise_gradient
from ncsam.runs.run import Run

GRADIENTS = ("g_clean", "g_noise", "g_star")


def gradients(run: Run, objective: Objective, seed: int = 0) -> dict[str, Tensor]:
    """g_clean, g_noise and g* at a checkpoint of a run, (K,) each; zero where a part is empty.

    g_clean and g_noise are the mean gradients of the rightly and wrongly labelled training samples. g* is NCSAM's
    simulated noise gradient with the whole training set as one batch
    (:func:`ncsam.measurements.directions.simulated_noise_gradient`).

    Args:
        objective: of the run at that checkpoint, with the views ``clean_part`` and ``noisy_part``.
        seed: of the picks.
    """
    parts = {"g_clean": objective.view("clean_part"), "g_noise": objective.view("noisy_part")}
    found = {
        name: part.gradient() if part.num_samples(part.views[0]) else torch.zeros_like(part.weights)
        for name, part in parts.items()
    }
    return {**found, "g_star": objective.extract(simulated_noise_gradient(run, objective.model, seed))}
