"""The table that a study is judged by: one row a run, its settings and every number measured on it.

A row is a mapping. Its settings are :data:`SETTINGS`; every other entry is an endpoint, a number by its name in
:data:`ncsam.study.endpoints.ENDPOINTS`. What a row lacks is NaN in the table: not measured, never guessed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ncsam.records import CellTable, Curves

REPORTED, TUNING = "reported", "tuning"
SETTINGS = ("name", "arm", "optimizer", "options", "data", "model", "noise", "rate", "seed", "role")
"""``options`` is a mapping, ``noise`` the kind without its rate, ``rate`` a share, ``role`` reported or tuning."""
_DEFAULTS: Mapping[str, Any] = {"optimizer": "", "options": {}, "data": "", "model": "", "noise": "", "role": REPORTED}


def table_of(rows: Iterable[Mapping[str, Any]]) -> CellTable:
    """The rows as one table; endpoints in the order of their first appearance.

    ``name``, ``arm``, ``rate`` and ``seed`` must be there; the other settings may be left out.

    Raises:
        ValueError: no rows, a row without a setting it needs, an endpoint that is no number, an unknown role, or two
            runs of one arm, data set, model, noise, rate, seed and role.

    >>> table = table_of([
    ...     {"name": "a", "arm": "sgd", "rate": 0.4, "seed": 0, "test_accuracy": 0.8},
    ...     {"name": "b", "arm": "sam", "rate": 0.4, "seed": 0, "test_accuracy": 0.9, "drop": 0.1},
    ... ])
    >>> table.endpoints.tolist(), table.value.tolist()
    (['test_accuracy', 'drop'], [[0.8, nan], [0.9, 0.1]])
    """
    rows = [{**_DEFAULTS, **row} for row in rows]
    if not rows:
        raise ValueError("no runs to tabulate")
    endpoints = list(dict.fromkeys(name for row in rows for name in row if name not in SETTINGS))
    seen: dict[tuple[Any, ...], str] = {}
    value = np.full((len(rows), len(endpoints)), np.nan)
    for i, row in enumerate(rows):
        _check(row, seen)
        for j, endpoint in enumerate(endpoints):
            value[i, j] = _number(row, endpoint)
    columns: dict[str, Any] = {name: np.array([str(row[name]) for row in rows]) for name in _TEXT}
    return CellTable(
        names=np.array([str(row["name"]) for row in rows]),
        endpoints=np.array(endpoints, dtype=str),
        options=np.array([json.dumps(dict(row["options"]), sort_keys=True) for row in rows]),
        rate=np.array([float(row["rate"]) for row in rows]),
        seed=np.array([int(row["seed"]) for row in rows]),
        value=value,
        **columns,
    )


_TEXT = ("arm", "optimizer", "data", "model", "noise", "role")


def rows_of(table: CellTable) -> list[dict[str, Any]]:
    """The rows of a table; the inverse of :func:`table_of` but for endpoints that are NaN, which are left out."""
    rows = []
    for i, name in enumerate(table.names):
        row: dict[str, Any] = {"name": str(name), "rate": float(table.rate[i]), "seed": int(table.seed[i])}
        row |= {column: str(getattr(table, column)[i]) for column in _TEXT}
        row["options"] = json.loads(str(table.options[i]))
        row |= {str(e): float(v) for e, v in zip(table.endpoints, table.value[i], strict=True) if not math.isnan(v)}
        rows.append(row)
    return rows


def rows_of_study(table: CellTable, study: Study) -> list[dict[str, Any]]:
    """The rows that a study of the table is made of: clean runs serve every kind of noise."""
    here = [row for row in rows_of(table) if row["role"] == REPORTED]
    here = [row for row in here if (row["data"], row["model"]) == (study.data, study.model)]
    return [row for row in here if row["noise"] == study.noise or row["rate"] == 0]


@dataclasses.dataclass(frozen=True)
class Study:
    """The reported runs of one data set, model and kind of noise; clean runs serve every kind.

    Attributes:
        data, model, noise: what the runs share.
        arms: in the order of the table.
        optimizers: optimizer and options of each arm.
        rates: ascending.
        seeds: ascending.
        tuned: arms whose settings were chosen on seeds of their own, by the table's tuning runs.
    """

    data: str
    model: str
    noise: str
    arms: tuple[str, ...]
    optimizers: Mapping[str, tuple[str, Mapping[str, Any]]]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    tuned: frozenset[str]
    _values: Mapping[tuple[str, float, int], Mapping[str, float]] = dataclasses.field(repr=False)

    def of(self, endpoint: str, arm: str, rate: float) -> np.ndarray:
        """An endpoint over :attr:`seeds`, (seeds,); NaN where it was not measured or is infinite."""
        at = next((r for r in self.rates if math.isclose(r, rate, abs_tol=1e-9)), math.nan)
        return np.array([self._values.get((arm, at, seed), {}).get(endpoint, math.nan) for seed in self.seeds])

    def ran(self, arm: str, rate: float) -> np.ndarray:
        """Tell for each of :attr:`seeds` whether there is a run, (seeds,)."""
        at = next((r for r in self.rates if math.isclose(r, rate, abs_tol=1e-9)), math.nan)
        return np.array([(arm, at, seed) in self._values for seed in self.seeds], bool)

    def over_rates(self, endpoint: str, arm: str) -> np.ndarray:
        """An endpoint over seeds and :attr:`rates`, (seeds, rates)."""
        return np.stack([self.of(endpoint, arm, rate) for rate in self.rates], axis=1)

    def over_arms(self, endpoint: str, rate: float) -> np.ndarray:
        """An endpoint over seeds and :attr:`arms`, (seeds, arms)."""
        return np.stack([self.of(endpoint, arm, rate) for arm in self.arms], axis=1)

    def measured(self, prefix: str = "") -> list[str]:
        """Endpoints that some run has whose name begins so, in the order of their first appearance."""
        return list(dict.fromkeys(n for values in self._values.values() for n in values if n.startswith(prefix)))


def spell(noise: str, rate: float) -> str:
    """The command line's spelling of a table's kind of noise at a rate.

    >>> spell("symmetric,inclusive", 0.4)
    'symmetric:0.4,inclusive'
    """
    kind, comma, options = noise.partition(",")
    return f"{kind}:{rate:g}{comma}{options}"


def studies(table: CellTable) -> list[Study]:
    """The table's studies, each judged by itself: data set × model × kind of noise, reported runs only.

    Raises:
        ValueError: there is no reported run.
    """
    every = rows_of(table)
    rows = [row for row in every if row["role"] == REPORTED]
    if not rows:
        raise ValueError("the table holds no reported run; tuning runs are never judged")
    found = []
    for data, model in dict.fromkeys((row["data"], row["model"]) for row in rows):
        here = [row for row in rows if (row["data"], row["model"]) == (data, model)]
        kinds = dict.fromkeys(row["noise"] for row in here if row["rate"] > 0) or {here[0]["noise"]: None}
        tuning = [row for row in every if row["role"] == TUNING and (row["data"], row["model"]) == (data, model)]
        for kind in kinds:
            # Under this kind of noise, or under one that settings were chosen for all kinds by.
            of_kind = [row for row in tuning if row["noise"] == kind] or tuning
            tuned = frozenset(row["arm"] for row in of_kind)
            found.append(_study(data, model, kind, [r for r in here if r["noise"] == kind or r["rate"] == 0], tuned))
    return found


def table_of_curves(curves: Curves) -> CellTable:
    """The table of a study that was stored as curves only."""
    rows = []
    for a, arm in enumerate(curves.arms):
        for r, rate in enumerate(curves.rates):
            for s, seed in enumerate(curves.seeds):
                values = curves.value[:, a, r, s]
                measured = {str(q): float(v) for q, v in zip(curves.quantities, values, strict=True) if not np.isnan(v)}
                if measured:
                    settings = {
                        "name": f"{arm}-{rate:g}-{seed}",
                        "arm": str(arm),
                        "rate": float(rate),
                        "seed": int(seed),
                    }
                    rows.append({**settings, **measured})
    return table_of(rows)


def _study(data: str, model: str, noise: str, rows: Sequence[Mapping[str, Any]], tuned: frozenset[str]) -> Study:
    values: dict[tuple[str, float, int], dict[str, float]] = {}
    # A clean run of the kind itself comes before that of another kind.
    for row in sorted(rows, key=lambda row: row["noise"] == noise):
        values[row["arm"], row["rate"], row["seed"]] = {
            k: v for k, v in row.items() if k not in SETTINGS and math.isfinite(v)
        }
    return Study(
        data=data,
        model=model,
        noise=noise,
        arms=tuple(dict.fromkeys(row["arm"] for row in rows)),
        optimizers={row["arm"]: (row["optimizer"] or row["arm"], row["options"]) for row in rows},
        rates=tuple(sorted({rate for _, rate, _ in values})),
        seeds=tuple(sorted({seed for _, _, seed in values})),
        tuned=tuned,
        _values=values,
    )


def _check(row: Mapping[str, Any], seen: dict[tuple[Any, ...], str]) -> None:
    for setting in SETTINGS:
        if setting not in row:
            raise ValueError(f"row {row.get('name', '?')!r} has no {setting!r}")
    if row["role"] not in (REPORTED, TUNING):
        raise ValueError(f"row {row['name']!r} has role {row['role']!r}, expected {REPORTED} or {TUNING}")
    if row["role"] == TUNING:
        return  # many candidates of one arm are tried
    key = tuple(row[k] for k in ("arm", "data", "model", "noise", "rate", "seed"))
    if key in seen:
        raise ValueError(
            f"{row['name']}: a second run of arm {row['arm']}, noise rate {row['rate']:g}, seed {row['seed']}; "
            f"the first is {seen[key]}"
        )
    seen[key] = row["name"]


def _number(row: Mapping[str, Any], endpoint: str) -> float:
    try:
        return float(row.get(endpoint, math.nan))
    except (TypeError, ValueError):
        raise ValueError(f"row {row['name']!r}: {endpoint} is {row[endpoint]!r}, expected a number") from None
