"""What points will take, timed on one of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import landscape
from landscape.surfaces.recalibration import Recalibration
from ncsam.measurements import forecast
from ncsam.measurements.forecast import Forecast, of_points


@pytest.mark.parametrize("recalibrated", [False, True])
def test_a_point_is_timed_as_it_is_evaluated(recalibrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    norm, passes = nn.BatchNorm1d(3), [0]
    model, data = nn.Sequential(norm, nn.Linear(3, 2)), (torch.randn(12, 3), torch.arange(12) % 2)

    def forward(model: nn.Module, batch: Any) -> Any:
        passes[0] += 1
        return model(batch[0])

    objective = landscape.Objective(model, nn.CrossEntropyLoss(), data, batch_size=4, forward=forward)
    objective.loss()
    calls: list[int] = []

    def timed(call: object) -> float:
        before = passes[0]
        call()  # type: ignore[operator]
        calls.append(passes[0] - before)
        return 0.5

    monkeypatch.setattr(forecast, "timed", timed)
    statistics = norm.running_mean.clone() if norm.running_mean is not None else None
    found = of_points(
        objective, range(7), at_most=recalibrated, recalibration=Recalibration(objective) if recalibrated else None
    )
    assert found == Forecast(3.5, f"{'up to ' if recalibrated else ''}7 points on 1 view")
    assert calls == [6 if recalibrated else 3]  # three micro-batches, and as many for the statistics
    assert statistics is not None
    torch.testing.assert_close(norm.running_mean, statistics, rtol=0, atol=0)
