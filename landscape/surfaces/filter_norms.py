"""Roles of parameters, and their filters: the groups that filter normalisation scales."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

ROLES = ("weight", "vector", "norm", "embedding", "position", "lora")
MODES = ("filter", "tensor", "zero")
DEFAULT_POLICY: Mapping[str, str] = {
    "weight": "filter",
    "vector": "zero",
    "norm": "zero",
    "embedding": "filter",
    "position": "filter",
    "lora": "filter",
}
_TINY = 1e-10
_NORM = re.compile(r"norm(act)?\d*d?$")  # BatchNorm2d, LayerNorm, LlamaRMSNorm, BatchNormAct2d, …
_POSITION = re.compile(r"^(pos|position|positional|wpe)(_|$)|pos_?emb|position_?emb")


def parameter_roles(model: nn.Module) -> dict[str, str]:
    """The role of every parameter, by the names of ``model.named_parameters()``, one of:

    ``norm``: a parameter of a normalisation layer (the class is called ``…Norm``, ``…Norm2d``), whatever its shape;
    ``lora``: part of a name starts with ``lora_`` and the tensor has at least two dims;
    ``position``: part of a name is ``pos…``, ``position…`` or ``wpe`` as in position embeddings, at least two dims;
    ``embedding``: the weight of ``nn.Embedding`` or ``nn.EmbeddingBag``;
    ``vector``: any other tensor with fewer than two dims: biases, layer scales, temperatures;
    ``weight``: the rest. A tied parameter has the first of these roles that any of its owners gives it.

    >>> parameter_roles(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm((2, 2))))
    {'0.weight': 'weight', '0.bias': 'vector', '1.weight': 'norm', '1.bias': 'norm'}
    """
    found: dict[int, set[str]] = {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            found.setdefault(id(parameter), set()).add(_role(f"{module_name}.{name}", module, parameter))
    order = ("norm", "lora", "position", "embedding", "vector", "weight")
    return {
        name: next(role for role in order if role in found[id(parameter)])
        for name, parameter in model.named_parameters()
    }


def resolve_policy(policy: Mapping[str, str] | None) -> dict[str, str]:
    """The mode of every role: the defaults, overridden by ``policy``.

    ``filter`` scales each filter of the draw to the norm of the weights' filter, ``tensor`` the tensor as a whole,
    ``zero`` leaves it in place.

    Raises:
        ValueError: an unknown role or mode.

    >>> resolve_policy({"vector": "tensor"})["vector"]
    'tensor'
    """
    for role, mode in (policy or {}).items():
        if role not in ROLES or mode not in MODES:
            raise ValueError(
                f"policy {role}={mode} is unknown; roles are {', '.join(ROLES)}, modes are {', '.join(MODES)}"
            )
    return {**DEFAULT_POLICY, **(policy or {})}


def filter_dims(name: str, role: str, ndim: int) -> tuple[int, ...]:
    """The axes that tell filters apart: a filter is everything at one index of them.

    Dim 0 (Li et al. 2018, arXiv 1712.09913, §4), that is: an output unit of ``Linear``, a filter of ``Conv1d/2d/3d``,
    an *input* channel of ``ConvTranspose``, a row of ``Embedding``. For position embeddings all but the last axis, so
    that a tensor (1, positions, width) has a filter a position. For ``lora_B`` dim 1: with the rows of ``lora_A`` and
    the columns of ``lora_B`` as filters, each rank-one component keeps its direction when one factor is scaled up and
    the other down, which changes nothing in the model.

    >>> filter_dims("conv.weight", "weight", 4), filter_dims("layer.lora_B", "lora", 2)
    ((0,), (1,))
    """
    if ndim == 0:
        return ()
    if role == "position" and ndim > 1:
        return tuple(range(ndim - 1))
    if role == "lora" and any(part.startswith(("lora_B", "lora_embedding_B")) for part in name.split(".")):
        return (1,)
    return (0,)


def scale_to_filters(draw: Tensor, weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """d_f·‖w_f‖ / (‖d_f‖ + 1e-10) for every filter f; a zero filter of the weights stays where it is.

    >>> scale_to_filters(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]), (0,))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    across = [axis for axis in range(draw.ndim) if axis not in dims]

    def norms(tensor: Tensor) -> Tensor:
        return torch.linalg.vector_norm(tensor, dim=across, keepdim=True) if across else tensor.abs()

    return draw * (norms(weight) / (norms(draw) + _TINY))


def _role(name: str, module: nn.Module, parameter: Tensor) -> str:
    parts = name.split(".")
    if _NORM.search(type(module).__name__.lower()):
        return "norm"
    if parameter.ndim < 2:
        return "vector"
    if any(part.startswith("lora_") for part in parts):
        return "lora"
    if any(_POSITION.search(part) for part in parts):
        return "position"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    return "weight"
