"""Loss-landscape analysis of any differentiable PyTorch objective.

The public names, listed in ``__init__.pyi``, are loaded on first use, so that reading a result file does not import
torch.
"""

from landscape._lazy import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
