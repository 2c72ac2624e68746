"""The plan of a study, written before its data: what is run, how it is judged, what it can find; and its hash.

A sweep's description may have a table for what only the plan needs:

.. code-block:: toml

    [plan]
    exclusions = ["runs whose loss is not finite"]
    pilots = [{ name = "two seeds of sgd and sam", looked_at = "test accuracy and memorisation" }]

    [plan.sd]                                    # of per-seed effects, in the unit of the statement's m
    T7 = 0.008                                   # every contrast of T7, of T7-SAM and the like too
    "T5/NCSAM" = { sd = 0.02, source = "pilot" }     # one contrast, and where the number is from
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from landscape import inputs
from landscape._files import replacing
from landscape._version import __version__
from landscape.store import StoreError
from landscape.store.provenance import code_digest
from ncsam.statistics import LEVEL, detectable_effect
from ncsam.study.endpoints import nominal_rate
from ncsam.study.statements import LATEST, VERSIONS, Statement
from ncsam.sweep.canonical import canonical, digest, plain
from ncsam.sweep.description import Sweep
from ncsam.sweep.tables import check_known
from ncsam.sweep.tuning import RULE
from ncsam.training.config import TrainConfig

KIND, FORMAT = "study plan", 1
POWER = 0.8
"""Chance with which the smallest true effect of a plan would be found."""
_PARTS = ("created", "sweep", "seeds", "arms", "tuning", "statements", "exclusions", "pilots", "power")
_KEYS = ("exclusions", "pilots", "sd")
_DRAWN = ("seeds", "options", "optimizer", "noise", "like")
"""Fields of a configuration that the arms and the seeds decide."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan: everything that was decided before the data, as one JSON-able mapping.

    Attributes:
        content: ``sweep``, the description that is run; ``seeds``, ``noise``, ``train``, ``arms``, ``measures``,
            ``tuning``, what it resolves to; ``statements`` with their version, endpoints, contrasts and smallest
            effects; ``exclusions``; ``pilots``; ``power``; ``created``, the day; ``package``, version and code.

    >>> sweep = Sweep.from_dict({"seeds": 10, "noise": ["symmetric:0.4"], "arms": [{"optimizer": "sgd"}],
    ...                          "plan": {"sd": {"T7": 0.008}}})
    >>> plan = draw_up(sweep)
    >>> len(plan.hash), plan.sweep.cells() == sweep.cells(), changes_since(plan)
    (64, True, [])
    """

    content: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """SHA-256 of the content, which every run of the study carries."""
        return digest(self.content)

    @property
    def sweep(self) -> Sweep:
        """The sweep that it describes."""
        return Sweep.from_dict(self.content["sweep"])

    @property
    def version(self) -> int:
        """Version of the statements that the study will be judged by."""
        return int(self.content["statements"]["version"])

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan and compare it with its hash.

        Raises:
            ValueError: no plan, or one that was changed after it was drawn up.
            OSError: it cannot be read.
        """
        found = inputs.read_json(path)
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise ValueError(f"{path}: is no plan; draw one up with `landscape plan`")
        if found.get("format") != FORMAT:
            raise ValueError(f"{path}: is a plan of format {found.get('format')!r}, expected {FORMAT}")
        told = found.pop("sha256", None)
        plan = cls(found)
        if plan.hash != told:
            raise ValueError(
                f"{path}: its content has the SHA-256 {plan.hash[:12]}…, it says {str(told)[:12]}…: it was changed "
                "after it was drawn up; take the file as it was committed"
            )
        if missing := [key for key in _PARTS if key not in found]:
            raise ValueError(f"{path}: is no plan, it has no {missing[0]!r}; draw one up with `landscape plan`")
        try:
            resolved(plan.sweep), plan.version, plan.content["statements"]["statements"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its sweep cannot be used ({error})") from error
        return plan

    def write(self, path: Path) -> None:
        """Write it with its hash, in one step.

        Raises:
            ValueError, OSError: the path is no place for a file.
        """
        with replacing(inputs.output(path), shared=True) as temporary:
            text = json.dumps({**self.content, "sha256": self.hash}, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def statement_versions() -> Mapping[int, Sequence[Statement]]:
    """Every version of the statements that the package can judge by."""
    return {number: version.statements for number, version in VERSIONS.items()}


def draw_up(sweep: Sweep, version: int | None = None, *, created: datetime.date | None = None) -> Plan:
    """Draw up the plan of a sweep, with what its table ``[plan]`` says.

    Args:
        version: of the statements; that of every study if none.
        created: today if none.

    Raises:
        ValueError: no such version, an unknown key, a standard deviation of no contrast or out of range.
    """
    versions = statement_versions()
    version = LATEST if version is None else version
    if version not in versions:
        raise ValueError(f"statements of version {version}, expected one of {', '.join(map(str, versions))}")
    asked = sweep.description.get("plan", {})
    check_known(asked, _KEYS, "[plan]")
    day = datetime.datetime.now(datetime.UTC).date() if created is None else created
    content = {
        "kind": KIND,
        "format": FORMAT,
        "created": day.isoformat(),
        "package": {"version": __version__, "code": code_digest()},
        "sweep": {key: value for key, value in sweep.description.items() if key != "plan"},
        **resolved(sweep),
        "statements": {"version": version, "statements": [_declared(s) for s in versions[version]]},
        "exclusions": _texts(asked.get("exclusions", []), "[plan] exclusions"),
        "pilots": _pilots(asked.get("pilots", [])),
        "power": {
            "level": LEVEL,
            "power": POWER,
            "method": "simulated: the t-interval of normal per-seed effects lies above the smallest relevant effect",
            "contrasts": list(_power(versions[version], sweep, asked.get("sd", {}))),
        },
    }
    return Plan(plain(content))


def resolved(sweep: Sweep) -> dict[str, Any]:
    """Write out what a sweep's description stands for, with all defaults, as its plan has it."""
    tuning = sweep.tuning
    everywhere = {key: value for key, value in TrainConfig(**sweep.train).to_dict().items() if key not in _DRAWN}
    arms = [
        {
            "name": arm.name,
            "optimizer": arm.optimizer,
            "options": dict(arm.options),
            "train": dict(arm.train),
            "noise": [noise for noise in sweep.noise if arm.noise is None or noise in arm.noise],
            "candidates": [] if tuning is None else tuning.candidates(arm),
        }
        for arm in sweep.arms
    ]
    found = {
        "seeds": {"reported": list(sweep.seeds), "tuning": [] if tuning is None else list(tuning.seeds)},
        "noise": list(sweep.noise),
        "train": everywhere,
        "arms": arms,
        "measures": {name: dict(settings) for name, settings in sweep.measures.items()},
        "tuning": None if tuning is None else {"rule": RULE, "widen": tuning.widen, "noise": tuning.noise},
        "fewer_seeds": dict(sweep.fewer),
    }
    return dict(plain(found))


def changes_since(plan: Plan) -> list[str]:
    """List what this version of the package would do differently from the plan, a line each.

    Settings that the package has got since are no change: the plan's runs had their defaults.
    """
    found = resolved(plan.sweep)
    lines = [line for key in found for line in _differences(plan.content.get(key), found[key], key)]
    versions = statement_versions()
    if plan.version not in versions:
        return [*lines, f"statements: version {plan.version} is not known here"]
    planned = {s["id"]: s for s in plan.content["statements"]["statements"]}
    now = {s["id"]: s for s in map(_declared, versions[plan.version])}
    return [*lines, *_differences(planned, plain(now), f"statements of version {plan.version}")]


def _differences(planned: Any, found: Any, where: str) -> Iterator[str]:
    if isinstance(planned, Mapping) and isinstance(found, Mapping):
        for key, value in planned.items():
            if key not in found:
                yield f"{where}: {key} is gone, planned {_shown(value)}"
            elif key == "candidates" and sorted(map(canonical, value)) == sorted(map(canonical, found[key])):
                continue  # a grid, in whatever order its axes were written down
            else:
                yield from _differences(value, found[key], f"{where}: {key}")
        return
    if isinstance(planned, list) and isinstance(found, list) and len(planned) == len(found):
        for one, other in zip(planned, found, strict=True):
            named = isinstance(one, Mapping) and "name" in one
            yield from _differences(one, other, f"{where}: {one['name']}" if named else where)
        return
    if planned != found:
        yield f"{where} is {_shown(found)}, planned {_shown(planned)}"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _declared(statement: Statement) -> dict[str, Any]:
    return {
        "id": statement.id,
        "text": statement.text,
        "endpoint": statement.endpoint,
        "contrasts": list(statement.contrasts),
        "smallest_effect": statement.smallest_effect,
    }


def _power(statements: Sequence[Statement], sweep: Sweep, given: Any) -> Iterator[dict[str, Any]]:
    """For each contrast the smallest true effect that would be found, where its standard deviation was given."""
    if not isinstance(given, Mapping):
        raise ValueError(f"[plan.sd] is {given!r}, expected a table")
    contrasts = [(s, contrast) for s in statements for contrast in s.contrasts]
    keys = {(s.id, c): (f"{s.id}/{c}", s.id, s.id.partition("-")[0]) for s, c in contrasts}
    check_known(
        given, list(dict.fromkeys(key for of_contrast in keys.values() for key in of_contrast[::-1])), "[plan.sd]"
    )
    for statement, contrast in contrasts:
        entry = next((given[key] for key in keys[statement.id, contrast] if key in given), None)
        sd, source = _deviation(entry, statement.id)
        seeds = _seeds_of(statement, sweep)
        found = None
        if statement.interval is not None:
            source = "its interval is not over the seeds alone"
        elif sd is not None and seeds > 1:
            found = detectable_effect(sd, seeds, statement.smallest_effect, power=POWER)
        yield {
            "statement": statement.id,
            "contrast": contrast,
            "smallest_effect": statement.smallest_effect,
            "seeds": seeds,
            "sd": sd,
            "source": source,
            "smallest_true_effect": None if found is None else float(f"{found:.4g}"),
        }


def _seeds_of(statement: Statement, sweep: Sweep) -> int:
    """The least number of seeds at a noise rate that a statement uses; of all where no noise has one of its rates."""
    counts: dict[float, int] = {}
    for noise in sweep.noise:
        rate, seeds = nominal_rate(noise), len(sweep.seeds[: sweep.fewer.get(noise)])
        if rate is not None:
            counts[rate] = min(seeds, counts.get(rate, seeds))
    there: Any = SimpleNamespace(rates=tuple(sorted(counts)))  # all that rates depend on
    used = {rate for _, _, rates in statement.needs for rate in rates(there)}
    return min((count for rate, count in counts.items() if rate in used), default=len(sweep.seeds))


def _deviation(entry: Any, name: str) -> tuple[float | None, str]:
    if entry is None:
        return None, "no standard deviation was given"
    if isinstance(entry, Mapping):
        check_known(entry, ("sd", "source"), f"[plan.sd] {name}")
        sd, source = entry.get("sd"), str(entry.get("source", "given"))
    else:
        sd, source = entry, "given"
    if isinstance(sd, bool) or not isinstance(sd, int | float) or not 0 < sd < 1e30:
        raise ValueError(f"[plan.sd] {name} is {sd!r}, expected a standard deviation above 0")
    return float(sd), source


def _pilots(values: Any) -> list[dict[str, str]]:
    if not isinstance(values, list):
        raise ValueError(f"[plan] pilots is {values!r}, expected a list of {{ name = …, looked_at = … }}")
    for value in values:
        if not isinstance(value, Mapping) or set(value) != {"name", "looked_at"}:
            raise ValueError(
                f"[plan] pilots has {value!r}, expected {{ name = …, looked_at = … }}: what was run, and what of it "
                "was looked at"
            )
        _texts(list(value.values()), "[plan] pilots")
    return [dict(value) for value in values]


def _texts(values: Any, where: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise ValueError(f"{where} is {values!r}, expected a list of texts")
    return list(values)


def refuse_changes(plan: Plan) -> None:
    """Refuse to run a plan with a package that would run something else.

    Raises:
        StoreError: there is a change, see :func:`changes_since`.
    """
    if changes := changes_since(plan):
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise StoreError(f"this version would not follow the plan: {changes[0]}{more}; see `landscape plan --check`")
