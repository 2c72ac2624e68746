"""Label noise of every kind, with its realised rate, transition matrix and seed in the record.

No global random state is read or changed; a kind is a function of its arguments and a seed. For one seed the flips of
a kind are nested across rates, so that runs at several rates are paired sample by sample.
"""

from __future__ import annotations

from ncsam.noise.kinds import asymmetric, beta, from_file, human, instance_dependent, matrix, pair, symmetric
from ncsam.noise.record import NoisyLabels
from ncsam.noise.spelling import apply, parse

__all__ = [
    "NoisyLabels",
    "apply",
    "asymmetric",
    "beta",
    "from_file",
    "human",
    "instance_dependent",
    "matrix",
    "pair",
    "parse",
    "symmetric",
]
