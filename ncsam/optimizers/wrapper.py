"""An optimizer that wraps another and shares its parameter groups, state and hooks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class OptimizerWrapper(Optimizer):
    """Optimizer with the groups, state and hooks of the one that it wraps; how it steps is left to subclasses.

    ``Optimizer.__init__`` is not called: it would make parameter groups and a state of its own. Groups, state and
    options are properties, because ``load_state_dict`` and ``deepcopy`` replace the wrapped optimizer's objects, and an
    alias would keep pointing at the old ones.

    Args:
        base: the wrapped optimizer.
    """

    def __init__(self, base: Optimizer) -> None:
        self.base = base
        self._set_up_hooks()

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base optimizer's parameter groups."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimizer's state."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's default options."""
        return self.base.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer; it is perturbed and trained from the next step on."""
        self.base.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients; a step does so itself."""
        self.base.zero_grad(set_to_none)

    def trained_parameters(self) -> list[Tensor]:
        """Parameters that require a gradient, each once, also where it stands in several groups or twice in one.

        Raises:
            ValueError: there are none.
        """
        every = {id(p): p for group in self.base.param_groups for p in group["params"] if p.requires_grad}
        if not every:
            raise ValueError("no parameter of the optimizer requires a gradient; nothing to step on")
        return list(every.values())

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Any:
        """Register on the base optimizer: called just before its update, with the gradient at w + ε in ``.grad``."""
        return self.base.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Any:
        """Register on the base optimizer: called just after its update."""
        return self.base.register_step_post_hook(hook)

    def state_dict(self) -> dict[str, Any]:
        """:meth:`whole_state`, with the hooks of ``register_state_dict_pre_hook`` and ``…_post_hook`` around it."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state = self.whole_state()
        for after in self._optimizer_state_dict_post_hooks.values():
            replaced = after(self, state)
            state = state if replaced is None else replaced
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load by :meth:`load_whole_state`, with the hooks of ``register_load_state_dict_pre_hook`` and its like."""
        state = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = before(self, state)
            state = state if replaced is None else replaced
        self.load_whole_state(state)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def whole_state(self) -> dict[str, Any]:
        """The base optimizer's state, and what a subclass adds to it."""
        return self.base.state_dict()

    def load_whole_state(self, state: dict[str, Any]) -> None:
        """Resume from a :meth:`whole_state`."""
        self.base.load_state_dict(state)

    def _set_up_hooks(self) -> None:
        # What torch's register_state_dict_pre_hook and its like write into.
        self._optimizer_state_dict_pre_hooks = OrderedDict()
        self._optimizer_state_dict_post_hooks = OrderedDict()
        self._optimizer_load_state_dict_pre_hooks = OrderedDict()
        self._optimizer_load_state_dict_post_hooks = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # A scheduler wraps the bound ``step`` of the instance; a copy must not call the original's. Hooks are left out
        # as torch's optimizers leave them out of their copies.
        left_out = ("step", "_opt_called")
        return {k: v for k, v in self.__dict__.items() if k not in left_out and not k.startswith("_optimizer_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up_hooks()
