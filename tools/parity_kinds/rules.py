"""The acceptance rules, and the judgement of one tensor."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """What difference is allowed.

    Attributes:
        factor: share of the reference that each number may be off.
        floor: what is allowed on top.
        element_wise: the share is of the number itself (of the tensor's rms, where that is larger), not of the rms.
    """

    factor: float
    floor: float = 1e-6
    element_wise: bool = False


OUTPUT = Rule(1e-4)
"""Networks: 1e-4 x rms of the reference + 1e-6."""

GRADIENT = Rule(2e-4)
"""Gradients: 2e-4 x rms + 1e-6."""

ELEMENT_WISE = Rule(1e-6, floor=0.0, element_wise=True)
"""Flow, augmentation, adaptive weight, frequencies: 1e-6 relative."""

INVERSE_NORMAL = Rule(1e-5, floor=0.0, element_wise=True)
"""Times that go through the inverse normal distribution function: 1e-5 relative."""


@dataclass(frozen=True)
class Row:
    """The judgement of one tensor of a fixture.

    Attributes:
        name: as in the fixture, `output/v_0`.
        problem: why there is no number, or None.
        largest: largest absolute difference. over_rms: the same over the reference's rms.
        limit: what was allowed, as text. share: the worst number's difference over what it was allowed.
    """

    name: str
    problem: str | None = None
    largest: float = 0.0
    over_rms: float = 0.0
    limit: str = ""
    share: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the tensor is within its rule. Not so if any number is not finite."""
        return self.problem is None and self.share <= 1.0


def judge(name: str, ours: Tensor, theirs: Tensor, rule: Rule) -> Row:
    """Compare a tensor with its reference, in float64, on the host."""
    if ours.shape != theirs.shape:
        return Row(name, f"ours has shape {list(ours.shape)}, the reference {list(theirs.shape)}")
    ours, theirs = ours.detach().cpu().double(), theirs.double()
    for what, values in (("ours", ours), ("the reference", theirs)):
        if not bool(values.isfinite().all()):
            return Row(name, f"{what} is not finite")
    difference, rms = (ours - theirs).abs(), theirs.square().mean().sqrt()
    scale = theirs.abs().clamp_min(rms) if rule.element_wise else rms
    allowed = rule.factor * scale + rule.floor
    share = (difference / allowed).nan_to_num(0.0, posinf=float("inf"))  # 0 / 0: nothing to reproduce, and nothing off
    largest = float(difference.max())
    return Row(
        name,
        largest=largest,
        over_rms=largest / float(rms) if rms > 0 else largest,
        limit=f"{rule.factor:.0e} rel" if rule.element_wise else f"{float(allowed):.2e}",
        share=float(share.max()),
    )
