"""``landscape train``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from . import options, progress

_OPTIMIZER_OPTIONS = ("rho", "kappa", "flip_ratio", "sign", "project", "label_smoothing", "schedule", "scale")
_SEEDS = ("split", "noise", "weights", "order", "picks")


@click.command("train")
@options.CONFIG
@click.option("--data", default="digits", show_default=True, help="Data set: digits, cifar10:DIR, npz:FILE, …")
@click.option("--noise", default="symmetric:0.4", show_default=True, help="Label noise KIND:RATE, or none.")
@click.option("--model", default="mlp", show_default=True, help="Model: mlp, cnn, …")
@click.option("--optimizer", default="ncsam", show_default=True, help="sgd, sam, ncsam or a control.")
@click.option("--rho", type=float, help="Radius of the perturbation [default: the optimizer's].")
@click.option("--kappa", type=float, help="Height of NCSAM's schedule.")
@click.option("--flip-ratio", type=float, help="Share of a batch that NCSAM simulates noise on.")
@click.option("--sign", type=click.Choice(["1", "-1"]), help="Sign of NCSAM's compensation.")
@click.option("--project/--no-project", default=None, help="Whether NCSAM's perturbation is kept within rho.")
@click.option("--label-smoothing", type=float, help="In the loss of NCSAM's noise gradient.")
@click.option("--schedule", help="NCSAM's schedule: paper, linear or constant.")
@click.option("--scale", help="NCSAM's scaling: raw or relative.")
@click.option("--epochs", type=int, default=200, show_default=True, help="Passes over the training set.")
@click.option("--batch-size", type=int, default=128, show_default=True, help="Samples a step.")
@click.option("--lr", type=float, default=0.05, show_default=True, help="Learning rate of SGD.")
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Momentum of SGD.")
@click.option("--weight-decay", type=float, default=1e-3, show_default=True, help="Weight decay of SGD.")
@click.option("--lr-schedule", default="cosine", show_default=True, help="cosine (to zero) or constant.")
@click.option("--warmup", type=float, default=0.25, show_default=True, help="Fraction of plain epochs at the start.")
@click.option("--val-fraction", type=float, default=0.1, show_default=True, help="Share held out of training.")
@click.option("--checkpoints", callback=options.split, help="Epochs to keep besides the last, comma-separated.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all that is drawn.")
@click.option("--seed-split", type=click.IntRange(min=0), help="Seed of the split [default: --seed].")
@click.option("--seed-noise", type=click.IntRange(min=0), help="Seed of the label noise [default: --seed].")
@click.option("--seed-weights", type=click.IntRange(min=0), help="Seed of the initial weights [default: --seed].")
@click.option("--seed-order", type=click.IntRange(min=0), help="Seed of the batch order [default: --seed].")
@click.option("--seed-picks", type=click.IntRange(min=0), help="Seed of NCSAM's picks [default: --seed].")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run file to write, e.g. run.h5.")
@options.DEVICE
@options.OVERWRITE
@options.RESUME
@options.JSON
@options.QUIET
def command(
    out: Path, device: str, overwrite: bool, resume: bool, as_json: bool, quiet: bool, seed: int, **choices: Any
) -> None:
    """Train under label noise and write a run file.

    \b
    Examples:
      landscape train --noise symmetric:0.4 --optimizer ncsam --epochs 40 --out run.h5
      landscape train --optimizer sam --rho 0.1 --seed 3 --epochs 40 --out sam.h5
    """
    from ncsam.config import TrainConfig
    from ncsam.optimizer import resolve_options
    from ncsam.run import train_run

    given = {name: choices.pop(name) for name in _OPTIMIZER_OPTIONS}
    if given["sign"] is not None:
        given["sign"] = int(given["sign"])
    seeds = {name: choices.pop(f"seed_{name}") for name in _SEEDS}
    try:
        checkpoints = tuple(int(epoch) for epoch in choices.pop("checkpoints") or ())
    except ValueError as error:
        raise click.BadParameter(f"{error}; expected epochs such as 10,20", param_hint="--checkpoints") from error
    config = TrainConfig(
        **choices,
        checkpoints=checkpoints,
        options=resolve_options(choices["optimizer"], {k: v for k, v in given.items() if v is not None}),
        seeds={name: seed if value is None else value for name, value in seeds.items()},
    )
    run = train_run(
        config,
        out,
        overwrite=overwrite,
        resume=resume,
        device=device,
        trust=True,  # names typed here are the user's own
        command=["landscape", *sys.argv[1:]],
        progress=progress.bar("training", quiet, resumable=True, unit="epoch"),
    )
    training = run.training
    last = {name: float(training.of_view(name)[-1]) for name in training.views}
    if as_json:
        click.echo(json.dumps({"file": str(out), "epochs": len(training.epochs), "accuracy": last}))
        return
    memorisation = training.memorisation[-1]
    click.echo(f"{out}: {config.optimizer} on {config.data}, {config.noise}, {config.epochs} epochs")
    click.echo(f"  test accuracy  {last['test']:.1%} (best epoch {training.of_view('test').max():.1%})")
    click.echo(f"  accuracy on observed labels  {last['mixed']:.1%}, on true labels  {last['true_labels']:.1%}")
    if memorisation == memorisation:
        click.echo(f"  wrong labels memorised  {memorisation:.1%}")
