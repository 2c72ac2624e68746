"""The page about own models: its code runs, is as short as promised, and leaves the models as they were."""

from __future__ import annotations

import copy
import re
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import landscape

PAGE = (Path(__file__).parents[2] / "docs" / "own-model.md").read_text(encoding="utf-8")
LIMIT = 15


def blocks(mark: str) -> list[str]:
    """Python blocks of a sort, or those of several (``a|b``) in their order."""
    return re.findall(rf"<!-- (?:{mark}) -->\n```python\n(.*?)```", PAGE, flags=re.DOTALL)


def run(code: str, namespace: dict[str, Any]) -> None:
    exec(compile(code, "docs/own-model.md", "exec", dont_inherit=True), namespace)


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {"__name__": "page"}


def test_every_block_is_of_a_known_sort() -> None:
    assert len(blocks("yours|added|loop|lightning")) == PAGE.count("```python")


def test_eigenvalues_and_a_surface_take_less_than_fifteen_lines() -> None:
    assert len(blocks("added")) == 4
    for block in blocks("added"):
        assert len([line for line in block.splitlines() if line.strip()]) < LIMIT
        assert "top_eigenpairs" in block
        assert "landscape.plane" in block


def test_the_code_runs_from_top_to_bottom_and_disturbs_no_model(namespace: dict[str, Any]) -> None:
    for block in blocks("yours|added"):
        owned = {name: value for name, value in namespace.items() if isinstance(value, nn.Module)}
        before = {name: copy.deepcopy(model.state_dict()) for name, model in owned.items()}
        run(block, namespace)
        for name, state in before.items():
            assert namespace[name].training
            torch.testing.assert_close(namespace[name].state_dict(), state, rtol=0, atol=0)
        if "top_eigenpairs" in block:
            assert namespace["top"].converged.all()
            surface = namespace["surface"]
            assert (surface.status == landscape.Status.OK).all()
            assert surface.loss.shape == (1, 9, 9)
            assert float(surface.loss[0, 4, 4]) == pytest.approx(namespace["obj"].loss(), rel=1e-5)
    assert Path("surface.png").exists()
    assert Path("accuracy.png").exists()
    assert landscape.load("surface.h5").kind == "plane"


def patched(code: str, diff: str) -> str:
    """The code after the diff, whose kept and removed lines must be the code's own."""
    lines = diff.splitlines()
    assert [line[1:] for line in lines if line[0] in " -"] == code.splitlines()
    return "\n".join(line[1:] for line in lines if line[0] in " +")


def test_a_plain_loop_takes_ncsam_with_three_new_lines(namespace: dict[str, Any]) -> None:
    (loop,), (diff,) = blocks("loop"), re.findall(r"```diff\n(.*?)```", PAGE, flags=re.DOTALL)
    assert sum(line.startswith("+") for line in diff.splitlines()) == 3
    run(blocks("yours")[0], namespace)
    found = []
    for code in (loop, patched(loop, diff)):
        torch.manual_seed(1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "projection keeps")
            run(code, namespace)
        assert namespace["opt"].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)  # the schedule reached it
        found.append(torch.cat([p.detach().flatten() for p in namespace["model"].parameters()]))
    assert all(torch.isfinite(weights).all() for weights in found)
    assert not torch.equal(*found)
    assert type(namespace["opt"]).__name__ == "NCSAM"


class LightningModule(nn.Module):
    """As much of Lightning's as the page uses, so that its code runs without Lightning."""

    current_epoch = 1

    def optimizers(self, use_pl_optimizer: bool) -> Any:
        assert not use_pl_optimizer
        self.made = getattr(self, "made", None) or self.configure_optimizers()  # type: ignore[operator]
        return self.made

    def log(self, name: str, value: float, **_: Any) -> None:
        self.logged = {name: value}


@pytest.mark.filterwarnings("ignore:projection keeps")
def test_the_lightning_module_trains(namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("lightning")
    stand_in.LightningModule = LightningModule  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning", stand_in)
    run(blocks("lightning")[0], namespace)
    module = namespace["Noisy"](nn.Linear(4, 3))
    module.trainer = types.SimpleNamespace(max_epochs=4)
    before = module.model.weight.detach().clone()
    module.training_step((torch.randn(16, 4), torch.randint(3, (16,))), 0)
    assert module.logged["loss"] > 0
    assert not torch.equal(module.model.weight, before)
