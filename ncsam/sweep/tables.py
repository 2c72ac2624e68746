"""Values of a sweep's description, each checked as it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from landscape import inputs
from landscape._suggest import did_you_mean
from ncsam import noise as label_noise
from ncsam.sweep.cells import MEASURES, settings_of


def table_of(value: Any, where: str) -> Mapping[str, Any]:
    """The value, which must be a table."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}, expected a table")
    return value


def check_known(found: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse keys that are not known, naming what is close to them."""
    for key in found:
        if key not in set(known):
            hint = did_you_mean(key, known) or f"; known: {', '.join(sorted(known))}"
            raise ValueError(f"{where} has an unknown key {key!r}{hint}")


def seeds_of(value: Any) -> tuple[int, ...]:
    """Seeds from their number or a list of them."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole:
        check_cells(value)
    seeds = list(range(value)) if whole else list(value) if isinstance(value, list | tuple) else []
    if not seeds or any(type(s) is not int or s < 0 for s in seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds is {value!r}, expected a number of seeds or a list of different ones ≥ 0")
    return tuple(seeds)


def fewer_of(table: Any, noise: Sequence[str], seeds: int) -> dict[str, int]:
    """Numbers of seeds by the noise under which not all of them are run."""
    check_known(table_of(table, "fewer_seeds"), noise, "fewer_seeds")
    for spec, count in table.items():
        if type(count) is not int or not 1 <= count <= seeds:
            raise ValueError(f"fewer_seeds of {spec} is {count!r}, expected a whole number, 1…{seeds}")
    return dict(table)


def noise_of(values: Any, where: str) -> tuple[str, ...]:
    """Kinds of label noise as they are spelled, one or a list."""
    specs = [values] if isinstance(values, str) else list(values) if isinstance(values, list | tuple) else []
    if not specs or not all(isinstance(spec, str) for spec in specs) or len(set(specs)) != len(specs):
        raise ValueError(f'{where} is {values!r}, expected different kinds such as ["symmetric:0.4"]')
    for spec in specs:
        label_noise.parse(spec)
    return tuple(specs)


def measures_of(table: Any) -> dict[str, dict[str, Any]]:
    """Settings of each measurement by its name."""
    measures = {
        name: dict(table_of(settings, f"[measure] {name}")) for name, settings in table_of(table, "[measure]").items()
    }
    check_known([name.partition("/")[0] for name in measures], MEASURES, "[measure]")
    for name, settings in measures.items():
        for part in name.split("/"):
            inputs.file_name(part, "a measurement")
        check_known(settings, {*settings_of(name), "at", "arms"}, f"[measure] {name}")
        for key in ("at", "arms"):
            listed = settings.get(key, [])
            if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
                raise ValueError(f"[measure] {name} {key} is {listed!r}, expected a list of names")
    return measures


def check_cells(count: int) -> None:
    """Refuse more runs than the limit."""
    if count > inputs.limits().cells:
        raise ValueError(
            f"the sweep has {count} runs or more, at most {inputs.limits().cells} are allowed; if that is right, add "
            f"--limits cells={count}"
        )
