"""The arms that are known by name: the one table of what each is printed as and how it is drawn.

Arms are told apart in greyscale and by colour-blind readers: no two share marker and fill, nor dashes and shade.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

_SOLID, _DASHED, _DOTTED, _DASH_DOT = "-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5))
_LONG, _DASH_DOT_DOT = (0, (10, 2)), (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5))


@dataclasses.dataclass(frozen=True)
class Arm:
    """Name and look of one arm.

    Attributes:
        name: as it is printed.
        colour, marker, dash: as matplotlib has them.
        filled: whether the marker is.
    """

    name: str
    colour: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]
    filled: bool = True


ARMS: Mapping[str, Arm] = {
    "sgd": Arm("SGD", "#0072B2", "o", _SOLID),
    "sam": Arm("SAM", "#D55E00", "s", _DASHED),
    "ncsam": Arm("NCSAM", "#009E73", "^", _DASH_DOT),
    "ncsam-unprojected": Arm("NCSAM, unprojected", "#55C0A0", "^", _LONG, filled=False),
    "ncsam-minus": Arm("NCSAM −", "#CC79A7", "v", _DOTTED),
    "ncsam-minus-unprojected": Arm("NCSAM −, unprojected", "#7A3E62", "v", _DASHED, filled=False),
    "ncsam-released": Arm("NCSAM, released code", "#005C43", "<", _DASH_DOT_DOT),
    "asam": Arm("adaptive SAM", "#7F3800", "s", _DOTTED, filled=False),
    "matched": Arm("matched", "#E69F00", "D", _DASH_DOT_DOT),
    "replay": Arm("replay", "#B07A3A", "D", _DASH_DOT_DOT, filled=False),
    "replay-unprojected": Arm("replay, unprojected", "#E0B070", "d", _DASH_DOT, filled=False),
    "random-direction": Arm("random direction", "#56B4E9", "X", _SOLID),
    "random-picks": Arm("random picks", "#777777", "P", _LONG),
    "gstar-only": Arm("g* only", "#A89500", "p", _LONG),
    "oracle": Arm("oracle", "#000000", "*", _DASH_DOT),
    "clean-direction": Arm("clean direction", "#333333", "h", _DASHED, filled=False),
    "clean-part-direction": Arm("clean-part direction", "#5F6F8F", "h", _DOTTED),
    "sgd-untuned": Arm("SGD, untuned", "#9AD0F0", "o", _SOLID, filled=False),
    "sam-published": Arm("SAM, ρ as published", "#F0A070", "P", _DOTTED, filled=False),
    "ncsam-published": Arm("NCSAM, as published", "#007A55", "*", _DASH_DOT, filled=False),
    "m-sam": Arm("m-SAM", "#C9A0DC", "d", _DASHED),
    "logit-sam": Arm("logit SAM", "#A1887F", "H", _SOLID),
    "jacobian-sam": Arm("Jacobian SAM", "#6B6F2A", "H", _DASH_DOT_DOT, filled=False),
    "label-smoothing": Arm("label smoothing", "#4B2E83", ">", _SOLID),
    "gce": Arm("GCE", "#8B1A1A", ">", _DASH_DOT, filled=False),
    "elr": Arm("ELR", "#1B3A57", "<", _LONG, filled=False),
    "mixup": Arm("mixup", "#3B2F00", "8", _DOTTED),
}
OTHERWISE = ("loss", "mixup")
"""Settings of a training that set an arm apart from others of its optimizer; among the options of a study's table."""
_RIVALS = {"smooth": "label-smoothing"}  # losses that the table has under another name
_OPTIONS = {"rho": "ρ", "kappa": "κ", "flip_ratio": "flip ratio"}  # that a sweep names its arms by
_VARIED = re.compile(rf"-({'|'.join(_OPTIONS)})(-?\d[\d.e-]*)")
_BY_NAME = {arm.name: key for key, arm in ARMS.items()}


def key_of(arm: str) -> str:
    """The key in the table of an arm, of a variant of it that a sweep made, or of a printed name; else the name itself.

    >>> key_of("sam-rho0.2"), key_of("adaptive SAM"), key_of("mine")
    ('sam', 'asam', 'mine')
    """
    return _BY_NAME.get(arm) or _VARIED.sub("", arm)


def is_variant(arm: str) -> bool:
    """True if a sweep made it by varying an option of a known arm."""
    return arm not in ARMS and arm not in _BY_NAME and key_of(arm) in ARMS


def printed(arm: str) -> str:
    """The name that an arm is printed under: the table's, with what a sweep varied; any other as it is.

    >>> printed("sam-rho0.2"), printed("ncsam-kappa-0.1"), printed("ncsam-unprojected"), printed("mine")
    ('SAM, ρ = 0.2', 'NCSAM, κ = −0.1', 'NCSAM, unprojected', 'mine')
    """
    if key_of(arm) not in ARMS:
        return arm
    varied = [f"{_OPTIONS[option]} = {re.sub('^-', '−', value)}" for option, value in _VARIED.findall(arm)]
    return ", ".join([ARMS[key_of(arm)].name, *varied])


def family_of(optimizer: str, options: Mapping[str, Any]) -> str:
    """Family that an arm is compared in, by its printed name; arms of a family differ in ρ, κ and the like.

    An optimizer that minimises another loss, or learns from mixed samples, is of a family of its own.

    >>> family_of("ncsam", {"sign": -1, "project": False}), family_of("sam", {"rho": 0.2})
    ('NCSAM −, unprojected', 'SAM')
    >>> family_of("sgd", {"loss": "gce:0.7"}), family_of("sam", {"loss": "gce:0.7"})
    ('GCE', 'SAM, gce')
    """
    if other := {key: options[key] for key in OTHERWISE if key in options}:
        kinds = [key if key == "mixup" else str(value).partition(":")[0] for key, value in other.items()]
        names = [printed(_RIVALS.get(kind, kind)) for kind in kinds]
        if optimizer == "sgd":
            return ", ".join(names)
        return ", ".join([family_of(optimizer, {k: v for k, v in options.items() if k not in other}), *kinds])
    if optimizer != "ncsam":
        return printed(optimizer)
    minus = "" if options.get("sign", 1) * options.get("kappa", 1) >= 0 else "-minus"
    return printed(f"ncsam{minus}{'' if options.get('project', True) else '-unprojected'}")


def in_order(arms: Iterable[str]) -> list[str]:
    """Arms in the order of the table, then those that it does not know."""
    known = list(ARMS)
    return sorted(arms, key=lambda arm: known.index(arm) if arm in known else len(known))
