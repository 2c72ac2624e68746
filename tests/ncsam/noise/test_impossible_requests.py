"""What cannot be done is a ValueError of one line that says what was got and what was expected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ncsam import noise

LABELS = [0, 1, 2, 0]
X = np.ones((4, 2))

IMPOSSIBLE: list[tuple[str, Callable[[], object]]] = [
    ("noise rate is -0.1, expected 0 ≤ rate ≤ 1", lambda: noise.symmetric(LABELS, -0.1, 3)),
    ("noise rate is 40, expected 0 ≤ rate ≤ 1", lambda: noise.pair(LABELS, 40, 3)),
    ("noise rate is nan", lambda: noise.asymmetric(LABELS, float("nan"), 3, mapping={0: 1})),
    ("noise rate is 1.5", lambda: noise.instance_dependent(X, LABELS, 1.5, 3)),
    ("labels lie in 0…2, expected 0…1", lambda: noise.symmetric(LABELS, 0.2, 2)),
    ("labels lie in -1…1, expected 0…2", lambda: noise.symmetric([-1, 1], 0.2, 3)),
    ("labels are float64 of shape", lambda: noise.symmetric([0.0, 1.0], 0.2, 3)),
    (r"of shape \(2, 1\), expected integers of shape \(n,\)", lambda: noise.symmetric([[0], [1]], 0.2, 3)),
    ("with n ≥ 1", lambda: noise.symmetric(np.array([], dtype=int), 0.2, 3)),
    ("num_classes is 1, expected at least 2", lambda: noise.symmetric([0], 0.2, 1)),
    (r"transition has shape \(2, 2\), expected \(3, 3\)", lambda: noise.matrix(LABELS, np.eye(2), 3)),
    ("row 1 of transition sums to 0.9, expected 1", lambda: noise.matrix([0], [[1, 0], [0.5, 0.4]], 2)),
    ("entries in -0.5…1.5, expected probabilities", lambda: noise.matrix([0], [[1.5, -0.5], [0, 1]], 2)),
    ("entries in nan", lambda: noise.matrix([0], [[np.nan, 1], [0, 1]], 2)),
    ("sends class 0 to 3, expected two different classes", lambda: noise.asymmetric([0], 0.1, 3, mapping={0: 3})),
    ("sends class 1 to 1", lambda: noise.asymmetric([0], 0.1, 3, mapping={1: 1})),
    ("did you mean 'cifar10'", lambda: noise.asymmetric([0], 0.1, 10, mapping="cifar-10")),
    (r"x has shape \(3, 2\), expected \(4, …\)", lambda: noise.instance_dependent(X[:3], LABELS, 0.1, 3)),
    ("x holds non-finite values", lambda: noise.instance_dependent(X * np.inf, LABELS, 0.1, 3)),
    ("deviation is 0, expected > 0", lambda: noise.instance_dependent(X, LABELS, 0.1, 3, deviation=0)),
    ("expected both > 0", lambda: noise.beta(LABELS, 0.0, 1.0, 3)),
    ("expected both > 0 and finite", lambda: noise.beta(LABELS, float("inf"), 1.0, 3)),
    ("leaves up to 1.0 on the true class", lambda: noise.beta(LABELS, 1.0, 1.0, 3, wrong=np.eye(3))),
    (r"wrong has shape \(2, 3\), expected \(4, 3\)", lambda: noise.beta(LABELS, 1.0, 1.0, 3, wrong=np.eye(3)[:2])),
]


@pytest.mark.parametrize(("message", "request_it"), IMPOSSIBLE, ids=[message for message, _ in IMPOSSIBLE])
def test_is_refused(message: str, request_it: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        request_it()
    assert "\n" not in str(caught.value)
