"""``landscape audit``."""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from landscape._files import folders_for, replacing
from landscape.inputs import output

from .shared import completion, options, progress, tables
from .shared.training_options import NORMALIZATION, SAMPLES, STATE_DICT

if TYPE_CHECKING:
    from ncsam.measurements.audit_checkpoint import Checkpoint
    from ncsam.runs.run import Run

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 1e7  # seconds


class Duration(click.ParamType):
    """A time: 90, 90s, 10m, 1.5h."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value).strip())
        seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else 0.0
        if not 0 < seconds <= _LONGEST:
            self.fail(f"{value!r}, expected a time such as 90s, 10m or 1.5h", param, ctx)
        return seconds


@options.command("audit")
@click.argument("checkpoints", nargs=-1, required=True)
@options.section("Weights that were trained elsewhere")
@click.option(
    "--model",
    shell_complete=completion.MODEL,
    help="Model of files of weights: mlp, cnn, resnet18, …, hf:DIR or package.module:factory.",
)
@click.option(
    "--data", help="Data set of files of weights: digits, cifar10:DIR, npz:FILE, … or package.module:factory."
)
@click.option(
    "--noise",
    default="none",
    show_default=True,
    shell_complete=completion.NOISE,
    help="Noise of the labels that were trained on, as in import.",
)
@STATE_DICT
@SAMPLES
@NORMALIZATION
@options.section("Compared with")
@click.option("--reference", metavar="CHECKPOINT", show_default="the first", help="Other end of the barriers.")
@click.option(
    "--null",
    type=click.Choice(["shuffled", "fresh", "none"]),
    default="shuffled",
    show_default=True,
    help="The first network with the entries of each weight tensor shuffled, or with fresh weights.",
)
@options.section("Measured on")
@click.option("--view", default="mixed", show_default=True, help="View of curvature and sharpness.")
@click.option(
    "--subset",
    type=options.count(0, 2**31 - 1),
    default=2000,
    show_default=True,
    help="Samples to draw from each view, by --subset-seed; 0: all.",
)
@click.option("--subset-seed", type=options.SEEDS, default=0, show_default=True, help="Seed of that draw.")
@click.option(
    "--span", type=options.positive(), default=1.0, show_default=True, help="Span of the pictures, in filter norms."
)
@options.section("How much")
@click.option("--budget", type=Duration(), show_default="10m", help="Time that it may take, roughly: 90s, 10m or 1.5h.")
@click.option(
    "--work",
    type=options.positive(1e15),
    help="The budget as forward passes of one sample instead, which gives the same choices on every machine.",
)
@options.SEED
@options.DTYPE
@options.DEVICE
@options.section("Output")
@options.out("HTML file; .json and .h5 lie beside it.", "audit.html")
@click.option("--title", show_default="what is audited", help="Title of the page.")
@options.OVERWRITE
@options.JSON
@options.CONFIG
@options.TRUST
@options.LIMITS
@options.QUIET
def command(
    checkpoints: tuple[str, ...],
    model: str | None,
    data: str | None,
    noise: str,
    key: str | None,
    ignore: tuple[str, ...],
    train_samples: int | None,
    test_samples: int | None,
    normalization: str,
    reference: str | None,
    null: str,
    view: str,
    subset: int,
    subset_seed: int,
    span: float,
    budget: float | None,
    work: float | None,
    seed: int,
    dtype: str,
    device: str,
    out: Path | None,
    title: str | None,
    overwrite: bool,
    as_json: bool,
    trust: bool,
    quiet: bool,
) -> None:
    """Audit checkpoints on one page: what they are like, how far to trust it.

    CHECKPOINTS are run files (of `train` or `import`; RUN@EPOCH for another epoch than the last), or files of
    weights as `import` reads them, with --model and --data. Losses by view, the largest Hessian eigenvalue, trace,
    negative mass, sharpness by measure, random lines and a plane, barriers, and a null: each with its error. The
    budget decides by a fixed rule how much of it is measured; the page says what was left out.

    \b
    Examples:
      landscape audit run.h5 --out audit.html
      landscape audit run.h5 sam.h5 --budget 1m --out both.html
      landscape audit last.pth --model mlp --data digits --budget 1m --out mine.html
    """
    out = output(out or Path("audit.html"))
    if out.suffix != ".html":
        raise click.BadParameter(f"{out.name!r}, expected a name that ends in .html", param_hint="--out")
    files = [out, out.with_suffix(".json"), out.with_suffix(".h5")]
    for path in files:
        if path.exists() and (path.is_dir() or not overwrite):
            raise click.UsageError(f"{path}: exists; choose another name{'' if path.is_dir() else ', or --overwrite'}")
    if budget is not None and work is not None:
        raise click.UsageError("--budget and --work say the same in two ways; give one of them")
    if budget is None and work is None:
        budget = 600.0

    from landscape import store
    from ncsam.measurements.audit import audit
    from ncsam.measurements.audit_checkpoint import Place
    from ncsam.report.audit import as_data, page

    with contextlib.ExitStack() as stack:
        settings = {
            "model": model, "data": data, "noise": noise, "key": key, "ignore": ignore, "seed": seed,
            "train_samples": train_samples, "test_samples": test_samples, "normalization": normalization,
        }  # fmt: skip
        opened = _Opened(settings, trust, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        found = opened.all([*checkpoints, *([reference] if reference is not None else [])])
        end = found.pop() if reference is not None else None
        audited = audit(
            found,
            view=view,
            reference=end,
            null=null,
            seconds=budget,
            work=work,
            subset=subset or None,
            subset_seed=subset_seed,
            seed=seed,
            span=span,
            place=Place.of(device, dtype),
            progress=progress.bar("audit", quiet, unit="step"),
        )
        stamp = store.stamp(
            config=options.provenance()["options"],
            seeds={"audit": seed, "subset": subset_seed},
            data_hash=found[0].run.attrs.get("data_hash"),
            command=progress.command_line(),
            device=device,
        )
    written = as_data(audited)
    with folders_for(out):
        store.create(files[2], kind="audit", attrs=stamp, contents=audited.contents, overwrite=overwrite)
        with replacing(files[1]) as temporary:
            temporary.write_text(tables.to_json(written, 2), encoding="utf-8")
        with replacing(out) as temporary:
            again = _again(progress.command_line(), audited.table.plan["allowed"])
            temporary.write_text(page(audited, title=title, command=again), encoding="utf-8")
    if as_json:
        tables.echo_json({"files": [str(path) for path in files], **written})
        return
    from ncsam.data.dataset import preparation_in_words
    from ncsam.report.audit import rows, verdicts

    origin = audited.table.origins[0]
    click.echo(f"inputs: {preparation_in_words(origin['inputs'], origin['normalization'])}")
    heads = ["quantity", "view, samples", *audited.table.checkpoints.tolist()]
    click.echo(tables.table(heads, [row[:-1] for row in rows(audited.table)]))
    for picture, against in verdicts(audited.table).items():
        named = picture if picture == "λ₁" else f"the {picture}"
        click.echo(f"may {named} be trusted? {'with care:' if against else 'yes'}")
        for text in against:
            click.echo(f"  {text}")
    for text in audited.table.left_out:
        click.echo(f"left out: {text}")
    for path in files:
        click.echo(path)


class _Opened:
    """Checkpoints by how they are spelled; files of weights become run files in a folder that goes when all is done."""

    def __init__(self, settings: dict[str, Any], trust: bool, folder: Path) -> None:
        self._settings, self._trust, self._folder = settings, trust, folder
        self._made = 0

    def all(self, spelled: Sequence[str]) -> list[Checkpoint]:
        """The checkpoints, with names that tell them apart."""
        from ncsam.measurements.audit_checkpoint import Checkpoint

        opened = [(text, *self._open(text)) for text in spelled]
        stems = [Path(text.rpartition("@")[0] if "@" in text else text).stem for text, _, _ in opened]
        labels = [
            stem if Counter(stems)[stem] == 1 else f"{stem}@{epoch}"
            for stem, (_, _, epoch) in zip(stems, opened, strict=True)
        ]
        if len(set(labels)) < len(labels):
            labels = [f"{n}-{label}" for n, label in enumerate(labels, 1)]
        return [Checkpoint(label, run, epoch, text) for label, (text, run, epoch) in zip(labels, opened, strict=True)]

    def _open(self, text: str) -> tuple[Run, int]:
        from ncsam.runs.run import Run

        file, at, epoch = text.rpartition("@")
        if at and not Path(text).exists() and not text.startswith("hf:"):
            run = self._as_stated(Run(file, trust=self._trust))
            return run, run.epoch(epoch)
        if _is_hdf5(text):
            run = self._as_stated(Run(text, trust=self._trust))
            return run, run.epoch("last")
        run = self._imported(text)
        return run, run.epochs[0]

    def _as_stated(self, run: Run) -> Run:
        """The run, unless another preparation of its inputs than its own is stated."""
        stated, own = self._settings["normalization"], run.config.normalization
        if click.get_current_context().get_parameter_source("normalization") in options.ORIGINS and stated != own:
            told = f"{run.path}: is a run file, whose normalization is {own}; not {stated}"
            raise click.UsageError(f"{told}: make it again for another one, or leave --normalization out")
        return run

    def _imported(self, text: str) -> Run:
        """A run file of a file of weights."""
        from ncsam.runs.import_run import import_run
        from ncsam.training.config import SEEDS

        model = self._settings["model"] or (text if text.startswith("hf:") else None)
        data = self._settings["data"]
        if model is None or data is None:
            missing = "--model" if model is None else "--data"
            raise click.UsageError(f"{text} is no run file; of a file of weights say its {missing} too")
        options.refuse_untyped({"model": model, "data": data}, self._trust)
        self._made += 1
        return import_run(
            [text],
            self._folder / f"{self._made}.h5",
            model=model,
            data=data,
            noise=self._settings["noise"],
            key=self._settings["key"],
            ignore=self._settings["ignore"],
            train_samples=self._settings["train_samples"],
            test_samples=self._settings["test_samples"],
            normalization=self._settings["normalization"],
            seeds=dict.fromkeys(SEEDS, self._settings["seed"]),
            evaluate=False,  # the audit does, within its budget
            trust=True,  # what is not the user's own was refused
        )


def _is_hdf5(text: str) -> bool:
    try:
        with Path(text).open("rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError:
        return Path(text).suffix in (".h5", ".hdf5")


def _again(words: Sequence[str], work: int) -> str:
    """The command line with the work that the budget was taken for, since a time buys less on a busy machine."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word.startswith("--budget="):
            skip = False
        elif word in ("--budget", "--work"):
            skip = True
        elif word not in ("--overwrite", "--quiet", "--json") and not word.startswith("--work="):
            kept.append(word)
    return shlex.join([*kept, "--work", str(work)])
