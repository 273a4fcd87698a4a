"""What every kind is: it builds modules from a fixture, then answers for its tensors one by one."""

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor, nn

from parity_kinds.case import Case
from parity_kinds.rules import ELEMENT_WISE, GRADIENT, OUTPUT, Rule

Gradients = dict[str, Tensor]
"""By official key."""


class Runner:
    """Base of the kinds. `__init__` builds on the CPU; what comes after it runs on the device, traced as a whole.

    Attributes:
        modules: what has to be placed on the device.
        inputs: the fixture's `input/` tensors and what `__init__` adds; replaced by their copies on the device.
    """

    element_wise = False
    """Whether the outputs are judged element by element, to 1e-6."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.inputs: dict[str, Tensor] = case.part("input")
        self.modules: list[nn.Module] = []
        self._memo: dict[Hashable, Tensor] = {}

    def output(self, name: str) -> Tensor | None:
        """Ours for `output/name`; None if there is no counterpart here."""
        raise NotImplementedError

    def gradients(self) -> Gradients:
        """Ours for all of the fixture's `grad/` tensors; those without a counterpart here are left out."""
        return {}

    def derived(self, name: str) -> Tensor | None:
        """Ours for `derived/name`."""
        del name
        return None

    def rule(self, part: str, name: str) -> Rule:
        """How a tensor is judged."""
        del name
        if part == "grad":
            return GRADIENT
        return ELEMENT_WISE if self.element_wise else OUTPUT

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """`make()`, computed the first time only."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def has(self, *names: str) -> bool:
        """Whether the fixture has all of these inputs."""
        return all(name in self.inputs for name in names)


def tokens(planes: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h w, C], row-major."""
    return planes.flatten(2).transpose(1, 2)


def planes(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, h w, C] -> [B, C, h, w]."""
    return x.transpose(1, 2).unflatten(2, grid)


def gradients_of(loss: Tensor, module: nn.Module, names: Mapping[str, str], like: Mapping[str, Tensor]) -> Gradients:
    """d loss / d (official key) for the keys of `like`, in its shapes; keys that no parameter of ours has are left out.

    `names`: official key -> ours.
    """
    parameters = dict(module.named_parameters())
    known = {key: parameters[names[key]] for key in like if names.get(key) in parameters}
    if not known:
        return {}
    found = torch.autograd.grad(loss, list(known.values()), retain_graph=True, allow_unused=True)
    return {
        key: (torch.zeros_like(parameter) if gradient is None else gradient).reshape(like[key].shape)
        for (key, parameter), gradient in zip(known.items(), found, strict=True)
    }
