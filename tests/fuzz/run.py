"""Running many networks: in this process or in one that may die, summing up, and reducing what failed."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.checks import THOROUGH, Depth, Fault, Outcome, check_network
from tests.fuzz.networks import Recipe, recipe_of
from tests.fuzz.untouched import autograd_works

_PLAIN: dict[str, Any] = {
    "end": "plain",
    "ambient": "plain",
    "form": "tensors",
    "single": False,
    "training": False,
    "loss": "squared_error",
    "tokens": False,
}


def outcomes(seeds: Iterable[int], depth: Depth = THOROUGH) -> Iterator[Outcome]:
    """The outcome of every seed, in this process and on one thread, as far as the process stays usable."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed in seeds:
            yield check_network(recipe_of(seed), depth)
            if not autograd_works():
                return
    finally:
        torch.set_num_threads(threads)


def isolated(seeds: range, depth: Depth = THOROUGH) -> Iterator[Outcome]:
    """The same from a process of its own, started anew behind a network that kills it."""
    left = list(seeds)
    while left:
        options = ["--worker", json.dumps(dataclasses.asdict(depth)), "--first-seed", str(left[0])]
        options += ["--networks", str(left[-1] + 1 - left[0])]
        with subprocess.Popen(
            [
                sys.executable,
                "-X",
                "faulthandler",
                "-m",
                "tests.fuzz",
                *options,
                "--networks",
                str(left[-1] + 1 - left[0]),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        ) as worker:
            assert worker.stdout is not None
            any_yielded = False
            for line in worker.stdout:
                if line.startswith("{"):
                    any_yielded = True
                    found = from_json(line)
                    left.remove(found.recipe.seed)
                    yield found
        if left and (worker.returncode or not any_yielded):
            seed = left.pop(0)
            fault = Fault("process", f"the process ended with {worker.returncode}")
            yield Outcome(recipe_of(seed), faults=[fault])


def to_json(outcome: Outcome) -> str:
    return json.dumps(dataclasses.asdict(outcome))


def from_json(text: str) -> Outcome:
    data = json.loads(text)
    recipe = Recipe(**data.pop("recipe"))
    recipe = dataclasses.replace(recipe, blocks=tuple((name, salt) for name, salt in recipe.blocks))
    return Outcome(recipe, [Fault(**fault) for fault in data.pop("faults")], **data)


def reduce(recipe: Recipe, check: str, fails: Callable[[Recipe], bool] | None = None) -> Recipe:
    """A smaller recipe with a fault in the same check: fewer blocks, plainer loss, data and surroundings.

    Args:
        recipe: that fails.
        check: whose fault is to stay.
        fails: whether a recipe still does; by :func:`tests.fuzz.checks.check_network` if none.
    """

    def still(smaller: Recipe) -> bool:
        return any(
            fault.check == check for fault in check_network(smaller, dataclasses.replace(THOROUGH, dense=1.0)).faults
        )

    fails = still if fails is None else fails
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(recipe):
            try:
                shrunk = fails(smaller)
            except Exception:  # a reduction may make no sense, such as tokens with a loss that knows none
                continue
            if shrunk:
                recipe, changed = smaller, True
                break
    return recipe


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    for place in range(len(recipe.blocks)):
        if len(recipe.blocks) > 1:
            yield recipe.without(place)
    for name, value in _PLAIN.items():
        if getattr(recipe, name) != value:
            yield dataclasses.replace(recipe, **{name: value})
    if recipe.batch_size < recipe.samples:
        yield dataclasses.replace(recipe, batch_size=recipe.samples)


def summary(found: list[Outcome]) -> str:
    """Tables of products, refusals and what was left out, and the idioms of networks with faults."""
    lines = [
        f"{len(found)} networks, {sum(sum(o.counts.values()) for o in found)} comparisons, "
        f"{sum(len(o.faults) for o in found)} faults in {sum(bool(o.faults) for o in found)} networks, "
        f"{sum(sum(o.skips.values()) for o in found)} left out, "
        f"{sum(sum(o.refusals.values()) for o in found)} refused as declared, {sum(o.seconds for o in found):.0f} s"
    ]
    for title, field in (("products", "strategies"), ("left out", "skips"), ("refused as declared", "refusals")):
        table: collections.Counter[str] = collections.Counter()
        for outcome in found:
            table.update(getattr(outcome, field))
        lines.append(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(table.items())))
    by_idiom: dict[str, set[int]] = collections.defaultdict(set)
    used: collections.Counter[str] = collections.Counter()
    for outcome in found:
        for name in {name for name, _ in outcome.recipe.blocks}:
            used[name] += 1
            if outcome.faults:
                by_idiom[name].add(outcome.recipe.seed)
    lines.append(f"{len(used)} idioms met")
    for name, seeds in sorted(by_idiom.items(), key=lambda item: -len(item[1]) / used[item[0]])[:40]:
        lines.append(f"  {name}: faults in {len(seeds)} of {used[name]} networks, e.g. seed {min(seeds)}")
    return "\n".join(lines)


def told(outcome: Outcome) -> str:
    """A network with its faults, those of like messages in one line."""
    lines = [f"seed {outcome.recipe.seed}: {described(outcome.recipe)}"]
    first = {fault.check: fault.message for fault in reversed(outcome.faults)}
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for check, message in reversed(first.items()):
        kinds[re.sub(r"[-\d.e]+", "#", message)].append(check)
    for checks in kinds.values():
        more = f" (and {len(checks) - 1} more: {', '.join(checks[1:4])} …)" if len(checks) > 1 else ""
        lines.append(f"    {checks[0]}: {first[checks[0]]}{more}")
    return "\n".join(lines)


def described(recipe: Recipe) -> str:
    """A recipe in one line."""
    blocks = " > ".join(name for name, _ in recipe.blocks)
    rest = {
        f.name: getattr(recipe, f.name)
        for f in dataclasses.fields(recipe)
        if f.name not in ("blocks", "seed", "source")
    }
    kept = {
        name: value
        for name, value in rest.items()
        if name in ("samples", "batch_size", "loss") or value != _PLAIN.get(name)
    }
    return f"{recipe.source}: {blocks} | " + ", ".join(f"{name}={value}" for name, value in kept.items())
