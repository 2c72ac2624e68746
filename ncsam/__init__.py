"""Training under label noise: NCSAM, the optimizers it must be compared with, and the study of what it does.

The public names, listed in ``__init__.pyi``, are loaded on first use, so that reading a run file does not import torch.
"""

from landscape._lazy import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
