"""Draw docs/gallery.png: SGD, SAM and NCSAM on digits without label noise and with 40 %, on shared random directions.

    python docs/gallery.py

trains six runs with the settings of `landscape demo` in a temporary folder, measures one plane of each and writes the
picture (minutes on two cores).
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import click
import numpy as np
import torch

from landscape import figures
from landscape.records import Plane
from ncsam import TrainConfig
from ncsam.measurements import measure_plane
from ncsam.optimizers import ProjectionWarning, resolve_options
from ncsam.runs.train import train_run

ARMS = {"SGD": ("sgd", {}), "SAM": ("sam", {"rho": 0.05}), "NCSAM": ("ncsam", {"rho": 0.05, "kappa": 0.1})}
RATES = (0.0, 0.4)
SEED = 0  # of data, noise, initial weights, batches, and of the two directions


def planes(folder: Path, epochs: int, points: int) -> dict[str, Plane]:
    """One plane a run, measured as ``landscape surface RUN --plane --seed 0`` does, by label."""
    grid = np.linspace(-1, 1, points).tolist()
    found = {}
    for rate in RATES:
        for label, (optimizer, options) in ARMS.items():
            config = TrainConfig(
                optimizer=optimizer, options=resolve_options(optimizer, options), noise=f"symmetric:{rate}",
                epochs=epochs, batch_size=64, weight_decay=0.0,
            ).with_seed(SEED)  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ProjectionWarning)  # said in docs/method.md
                run = train_run(config, folder / f"{optimizer}-{rate}.h5")
            plane = measure_plane(run, views=("mixed", "test"), alphas=grid, betas=grid, seed=SEED)
            accuracy = run.training.of_view("test")[-1]
            found[f"{label}, {rate:.0%} noise, test {accuracy:.0%}"] = plane
    return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).with_name("gallery.png"))
@click.option("--epochs", type=click.IntRange(min=4), default=45, show_default=True)
@click.option("--points", type=click.IntRange(min=3), default=25, show_default=True)
def main(out: Path, epochs: int, points: int) -> None:
    """Train, measure and draw."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = figures.contours(planes(Path(folder), epochs, points), "mixed", columns=len(ARMS), levels=30)
    figures.save(made, out.with_suffix(""), ["png"], dpi=150)
    sys.stdout.write(f"{out}\n")


if __name__ == "__main__":
    main()
