"""What a compiled step computes beyond the recipe's own FLOPs, by weight."""

from raexla.plan.program import ProgramFacts

_GRADIENT = " (gradient)"
KERNELS = "attention kernels"
_NETWORKS = {"mllm": "language model", "dit": "DiT", "RAECodec": "encoder", "VAECodec": "encoder"}
"""The first part of a weight's name (of a frozen one its class) -> the network's name in a table, where they differ."""


def run_again(facts: ProgramFacts, least: float = 0.002) -> dict[str, int]:
    """Weight -> FLOPs of its products beyond those of forward pass, input's and weight's gradient; largest first.

    The three cost the same, so that what stands beside a weight and not its gradient is twice the gradient's: more is
    run again.

    Args:
        least: part of all FLOPs from which it is named.
    """
    places = facts.flops_by_place
    found = {
        weight: flops - 2 * places[weight + _GRADIENT]
        for weight, flops in places.items()
        if weight + _GRADIENT in places
    }
    named = {weight: more for weight, more in found.items() if more > least * facts.product_flops}
    return dict(sorted(named.items(), key=lambda item: -item[1]))


def by_network(facts: ProgramFacts) -> dict[str, int]:
    """Network -> FLOPs of its products, kernels (which belong to several) apart; largest first."""
    found: dict[str, int] = {}
    for product in facts.products:
        first = product.weight.partition(".")[0]
        name = _NETWORKS.get(first, first) if product.weight else "without a weight"
        found[name] = found.get(name, 0) + product.total
    if kernels := sum((kernel.flops or 0) * kernel.times for kernel in facts.kernels):
        found[KERNELS] = kernels
    return dict(sorted(found.items(), key=lambda item: -item[1]))
