"""``landscape import``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from landscape._files import folders_for

from .shared import completion, options, progress, tables
from .shared.training_options import NORMALIZATION, SAMPLES, STATE_DICT, resolved_seeds, seeds, setting


@options.command("import")
@click.argument("files", metavar="[FILE]...", nargs=-1)
@options.section("Weights and model")
@click.option(
    "--weights",
    metavar="FILE...",
    multiple=True,
    required=True,
    help="Files of weights: state dicts, safetensors, Lightning checkpoints, or hf:DIR.",
)
@click.option(
    "--model",
    shell_complete=completion.MODEL,
    show_default="hf:DIR of --weights",
    help="Model: mlp, cnn, resnet18, …, hf:DIR or package.module:factory, called with input shape and classes.",
)
@click.option(
    "--checkpoints",
    "epochs",
    cls=options.Renamed,
    former="--epochs",
    metavar="LIST",
    callback=options.split,
    show_default="1,2,…",
    help="Epoch of each file.",
)
@STATE_DICT
@options.section("Data and noise")
@click.option(
    "--data",
    required=True,
    help="Data set: digits, cifar10:DIR, mnist:DIR, npz:FILE, folder:DIR, … or package.module:factory.",
)
@click.option(
    "--noise",
    default="none",
    shell_complete=completion.NOISE,
    show_default=True,
    help="Noise of the labels that were trained on: labels:FILE[,KEY], pair:0.3, … as in train.",
)
@SAMPLES
@setting("val_fraction", "Share that was held out, 0 to 1.", default=0.0)
@NORMALIZATION
@options.section("Training, for `diagnose`")
@setting("loss", "Training loss: ce, smooth:0.1, gce:0.7 or sce:0.1,1.0.")
@setting("batch_size", "Samples in a step.")
@options.SEED
@options.section("Computation")
@seeds(split="the split", noise="the label noise")
@options.DEVICE
@options.section("Output")
@options.out("Run file to write; folders are made.", "imported.h5")
@options.OVERWRITE
@options.JSON
@options.CONFIG
@options.TRUST
@options.LIMITS
@options.QUIET
def command(
    files: tuple[str, ...],
    weights: tuple[str, ...],
    model: str | None,
    epochs: tuple[str, ...] | None,
    data: str,
    seed: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    trust: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Make a run file of weights that were trained elsewhere.

    Each file becomes a checkpoint. All commands that measure a run then work on it (hessian, surface, sharpness,
    diagnose, figure, verify), but not those that need its training (theory, report). Files are read without executing
    their content. `landscape export RUN --weights last --format pt` is the way back.

    \b
    Examples:
      landscape import --weights last.pth --model mlp --data digits --out imported.h5
      landscape import --weights e20.pt last.pth --checkpoints 20,40 --model mlp --data digits --out two.h5
    """
    if files and len(weights) > 1:
        raise click.UsageError(
            f"{files[0]!r} follows several --weights; give all files behind one, or each behind its own"
        )
    every = [*weights, *files]
    if model is None:
        if len(every) > 1 or not every[0].startswith("hf:"):
            raise click.UsageError("--model is missing; give a model by name, or package.module:factory")
        model = every[0]
    at = None if epochs is None else options.whole_numbers(epochs, "--checkpoints")
    out = out or Path("imported.h5")
    own_seeds = resolved_seeds(seed, settings)
    options.refuse_untyped({"data": data, "model": model}, trust)

    from ncsam.data.dataset import preparation_in_words
    from ncsam.runs.import_run import import_run

    with folders_for(out):
        run = import_run(
            every,
            out,
            model=model,
            data=data,
            epochs=at,
            seeds=own_seeds,
            overwrite=overwrite,
            trust=True,  # what is not the user's own was refused
            command=progress.command_line(),
            progress=progress.bar("import", quiet, unit="checkpoint"),
            **settings,
        )
    origins = run.attrs["weights"]
    if as_json:
        prepared = {"normalization": run.config.normalization, "inputs": run.attrs["inputs"]}
        tables.echo_json({"kind": "run", "file": str(out), "epochs": run.epochs, **prepared, "weights": origins})
        return
    click.echo(f"{out}: {model} on {data}, {run.config.noise}, imported")
    click.echo(f"inputs: {preparation_in_words(run.attrs['inputs'], run.config.normalization)}")
    rows = [
        [
            str(origin["epoch"]),
            *(_shown(origin[name], ".1%") for name in ("train_accuracy", "test_accuracy")),
            *(_shown(origin[name], ".4g") for name in ("train_loss", "test_loss")),
            f"{origin['file']}{_remarks(origin)}",
        ]
        for origin in origins
    ]
    heads = ["training accuracy", "test accuracy", "training loss", "test loss"]
    click.echo(tables.table(["epoch", *heads, "from"], rows))
    click.echo("if these are not the accuracies you know, inputs or classes are not those of the training")


def _shown(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _remarks(origin: dict[str, Any]) -> str:
    """Say what was done to the names in a file."""
    said = [
        f"from {origin['key']}" if origin["key"] else "",
        f"without the prefix {' '.join(origin['removed'])}" if origin["removed"] else "",
        f"{origin['counters']} counters of BatchNorm missing, set to 0" if origin["counters"] else "",
    ]
    told = ", ".join(filter(None, said))
    return f" ({told})" if told else ""
