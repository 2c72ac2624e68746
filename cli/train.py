"""``landscape train``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from landscape._files import folders_for
from landscape.inputs import as_file_name
from ncsam.training.config import TrainConfig

from .shared import completion, options, progress, tables, torchrun
from .shared.training_options import NORMALIZATION, SAMPLES, resolved_seeds, seeds, setting

_COMPENSATION = ("kappa", "flip_ratio", "sign", "project", "label_smoothing", "schedule", "scale")
_OPTIMIZER_OPTIONS = ("rho", *_COMPENSATION, "eta", "m", "clusters", "features")
_BASIC = (
    "preset", "data", "noise", "model", "optimizer", "rho", "lr", "epochs", "batch-size", "checkpoints", "seed",
    "device", "out", "overwrite", "resume", "quiet",
)  # fmt: skip
# What these say matters only with some values of another option; elsewhere they are refused rather than ignored.
_MATTERS_WITH = {
    "momentum": ("base_optimizer", ("sgd",)),
    "betas": ("base_optimizer", ("adamw", "adam")),
    "warmup_rho": ("warmup_step", ("sam",)),
    "like": ("optimizer", ("replay",)),
}


def _list_presets(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Callback: ``list`` prints the presets and ends the command."""
    if value == "list":
        click.echo(_presets())
        ctx.exit()
    return value


def _presets() -> str:
    """Every preset as a row of a table."""
    from ncsam.training.presets import PRESETS

    def shown(preset: Any, *names: str) -> list[str]:
        found = {**preset.settings, **preset.options}
        return [f"{found[name].value} ({found[name].source})" if name in found else "" for name in names]

    names = ("noise", "model", "optimizer", "rho", "kappa", "flip_ratio")
    rows = [
        [preset.name, *shown(preset, *names), "" if preset.published is None else f"{preset.published:.2%}"]
        for preset in PRESETS.values()
    ]
    return tables.table(("preset", *names, "published accuracy"), rows)


@options.command("train", basic=_BASIC)
@options.CONFIG
@options.section("Data and noise")
@click.option(
    "--preset",
    metavar="NAME",
    is_eager=True,
    callback=_list_presets,
    shell_complete=completion.TRAIN_PRESET,
    help="Setting of the published comparison; list prints them all.",
)
@setting(
    "data",
    "Data set: digits, cifar10:DIR, cifar100:DIR, mnist:DIR, fashion-mnist:DIR, npz:FILE, folder:DIR or "
    "package.module:factory.",
)
@setting("noise", "Label noise: KIND:RATE, e.g. pair:0.3, or none.", shell_complete=completion.NOISE)
@SAMPLES
@setting("val_fraction", "Share that is held out, 0 to 1.")
@NORMALIZATION
@setting("augment", "Pad, crop and flip training images.")
@options.section("Model")
@setting("model", "Model: mlp, cnn, resnet18, vgg19-bn, … or package.module:factory.", shell_complete=completion.MODEL)
@options.section("Optimizer")
@setting(
    "optimizer", "Optimizer: sgd, sam, ncsam, a control or package.module:factory.", shell_complete=completion.OPTIMIZER
)
@setting("like", "Run file whose perturbation norms replay repeats, step by step.")
@click.option("--rho", type=options.size(), show_default="the optimizer's", help="Radius of the perturbation, L2 norm.")
@click.option(
    "--kappa",
    type=options.SIGNED,
    show_default="the optimizer's",
    help="Height of NCSAM's schedule; a negative one subtracts the compensation.",
)
@click.option(
    "--flip-ratio",
    type=options.SHARE,
    show_default="the optimizer's",
    help="Share of a batch that NCSAM relabels, 0 to 1.",
)
@click.option("--sign", type=click.Choice(["1", "-1"]), show_default="1", help="Sign of NCSAM's compensation.")
@click.option("--project/--no-project", default=None, help="Keep NCSAM's perturbation within rho.")
@click.option(
    "--label-smoothing", type=options.SHARE, help="Label smoothing in the loss of NCSAM's noise gradient, 0 to 1."
)
@click.option("--schedule", help="NCSAM's schedule: paper, linear or constant.")
@click.option("--scale", help="NCSAM's scaling: raw or relative.")
@click.option("--eta", type=options.size(), help="Constant that adaptive SAM adds to |w|.")
@click.option(
    "--m",
    type=options.count(1, 1_000_000),
    help="Samples that share a perturbation in m-sam, logit-sam and jacobian-sam.",
)
@click.option("--clusters", type=options.count(1, 1_000_000), help="Number of clusters of the released NCSAM.")
@click.option("--features", show_default="the last linear one", help="Layer whose input the released NCSAM clusters.")
@options.section("Base optimizer")
@setting("base_optimizer", "Optimizer that takes the step: sgd, adamw or adam.")
@setting("lr", "Learning rate at the start.")
@setting("lr_schedule", "Learning-rate schedule: cosine, constant or step:0.1@0.5,0.75.")
@setting("momentum", "Momentum of sgd.")
@setting("weight_decay", "Weight decay, added to the gradient; adamw applies it to the weights.")
@setting("betas", "Betas of adam and adamw.", type=options.BELOW_1, metavar="X X", nargs=2)
@options.section("Training")
@setting("loss", "Training loss: ce, smooth:0.1, gce:0.7, sce:0.1,1.0 or elr:3,0.7.")
@setting("mixup", "Train on mixtures of two samples with shares from Beta(X, X); 0: off.")
@setting("epochs", "Passes over the training set.")
@setting("batch_size", "Samples in a step.")
@setting("warmup", "Share of epochs that all optimizers share.")
@setting("warmup_step", "Steps of the warm-up: base or sam.")
@setting("warmup_rho", "Radius of SAM in the warm-up, L2 norm.")
@options.section("Along training")
@click.option(
    "--checkpoints", metavar="LIST", callback=options.split, help="Epochs to keep besides the last: 10,20 or 5-9."
)
@setting("diagnose", "Batches on which gradients are compared; 0: none.")
@setting("diagnose_every", "Epochs between these comparisons; 0: often early, seldom late.")
@setting("evaluate_every", "Epochs between evaluations.")
@click.option("--samples", is_flag=True, help="Keep loss and margin of every training sample at every epoch.")
@options.SEED
@options.section("Computation")
@seeds(
    split="the split", noise="the label noise", weights="the initial weights", order="the batch order",
    picks="NCSAM's picks",
)  # fmt: skip
@options.DEVICE
@setting("precision", "Precision of the steps: fp32 or bf16 (autocast).")
@setting(
    "perturbed_shares",
    "Perturb N shares of each batch by themselves, one in each of N processes of torchrun; 1: the batch as a whole.",
    metavar="N",
)
@setting("memory_format", "Memory format of the steps: auto, contiguous or channels_last.")
@setting("compile", "Run the steps through torch.compile.")
@options.section("Output")
@options.out("Run file to write; folders are made.", "OPTIMIZER.h5")
@click.option("--log", type=click.Path(path_type=Path), help="Write a JSON line for each epoch to this file.")
@options.OVERWRITE
@options.RESUME
@options.JSON
@options.TRUST
@options.LIMITS
@options.QUIET
def command(
    out: Path | None,
    log: Path | None,
    preset: str | None,
    device: str,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
    seed: int,
    trust: bool,
    **choices: Any,
) -> None:
    """Train under label noise and write a run file.

    Options override the environment, which overrides --config, which overrides --preset, which overrides the
    defaults; the run file states the source of each value. A preset such as cifar10-sym40-ncsam needs
    --data cifar10:DIR (or cifar100:DIR).

    \b
    Examples:
      landscape train --noise symmetric:0.4 --epochs 40 --checkpoints 10,20,30 --out run.h5
      landscape train --optimizer sam --rho 0.1 --epochs 40 --out sam.h5
      landscape train --preset list
    """
    import numpy as np

    from ncsam.runs.train import train_run

    own_seeds = resolved_seeds(seed, choices)
    choices["checkpoints"] = tuple(options.whole_numbers(choices["checkpoints"] or (), "--checkpoints"))
    if choices["sign"] is not None:
        choices["sign"] = int(choices["sign"])
    values, origins = _resolve(choices, preset)
    config = TrainConfig(**values, seeds=own_seeds)
    elsewhere = [name for name in ("data", "model", "optimizer") if origins[name] in ("environment", "config")]
    options.refuse_imports([values[name] for name in elsewhere], trust)
    out = out or Path(f"{as_file_name(config.optimizer)}.h5")
    with folders_for(out, log):
        run = train_run(
            config,
            out,
            overwrite=overwrite,
            resume=resume,
            device=device,
            trust=True,  # what is not the user's own was refused
            command=progress.command_line(),
            attrs={"preset": preset, "origins": origins},
            log=log,
            ranks=torchrun.ranks(),
            progress=progress.bar("training", quiet, resumable=True, unit="epoch"),
        )
    training = run.training
    last = {name: float(training.of_view(name)[-1]) for name in training.views}
    if as_json:
        tables.echo_json({"kind": "run", "file": str(out), "epochs": len(training.epochs), "accuracy": last})
        return
    memorisation, corrected = training.memorisation[-1], training.corrected
    click.echo(f"{out}: {config.optimizer} on {config.data}, {config.noise}, {config.epochs} epochs")
    of_test = training.of_view("test")
    best = f"{np.nanmax(of_test):.1%}" if np.isfinite(of_test).any() else "not a number"
    if not math.isfinite(last["test"]):
        click.echo(f"  the training diverged: outputs are not numbers at the last epoch (best test accuracy {best})")
        return
    click.echo(f"  test accuracy  {last['test']:.1%} (best epoch {best})")
    if training.balanced_accuracy is not None:
        click.echo(f"  balanced accuracy  {training.balanced_accuracy[-1]:.1%}")
    click.echo(f"  accuracy on observed labels  {last['mixed']:.1%}, on true labels  {last['true_labels']:.1%}")
    if memorisation == memorisation and corrected is not None:
        click.echo(
            f"  wrong labels memorised  {memorisation:.1%}, predicted correctly nonetheless  {corrected[-1]:.1%}"
        )


def _resolve(choices: dict[str, Any], preset: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of the configuration, and of each, and each option of the optimizer, where its value is from.

    Origins are ``flag``, ``environment``, ``config``, a preset's ``paper``, ``released`` or ``ours``, and ``default``.
    """
    from ncsam.optimizers import options_of, resolve_options
    from ncsam.training.presets import Setting, get

    source_of = click.get_current_context().get_parameter_source
    sources = {name: options.ORIGINS.get(source) for name in choices if (source := source_of(name)) is not None}
    given = {name: Setting(choices[name], word) for name, word in sources.items() if word is not None}
    fields = {name: Setting(value, "default") for name, value in choices.items() if name not in _OPTIMIZER_OPTIONS}
    found = get(preset) if preset is not None else None
    if found is not None:
        if "data" not in given:
            raise click.UsageError(f"preset {preset} does not know where the data are; add --data {found.data}:DIR")
        fields |= found.settings
    fields |= {name: setting for name, setting in given.items() if name in fields}

    for name, (other, values) in _MATTERS_WITH.items():
        if name in given and fields[other].value not in values:
            flags = [f"--{n.replace('_', '-')}" for n in (name, other)]
            raise click.UsageError(f"{flags[0]} has an effect only with {flags[1]} {' or '.join(values)}; leave it out")

    optimizer = fields["optimizer"].value
    chosen = {name: setting for name, setting in given.items() if name in _OPTIMIZER_OPTIONS}
    if found is not None:  # another optimizer keeps of the preset's options those that it has, too
        known = options_of(optimizer)
        chosen = {**{name: s for name, s in found.options.items() if name in known}, **chosen}
    resolved = resolve_options(optimizer, {name: setting.value for name, setting in chosen.items()})
    origins = {name: setting.source for name, setting in fields.items()}
    origins |= {name: chosen[name].source if name in chosen else "default" for name in resolved}
    return {**{name: setting.value for name, setting in fields.items()}, "options": resolved}, origins
