"""What a stack of transformer blocks keeps for its backward pass, and what that runs again.

An estimate for bf16 computation; the compiler's own figure stands beside it where there is one.
"""

from raexla.models.flops import Work
from raexla.runtime import RuntimeRecipe, XlaRecipe

_KERNEL_TOKENS = 128
"""The attention kernel takes sequences of whole multiples of this (`runtime/splash.py`)."""


def by_kernel(runtime: RuntimeRecipe, tokens: int) -> bool:
    """Whether a TPU's attention kernel takes such sequences, so that no scores stand in memory."""
    return isinstance(runtime, XlaRecipe) and runtime.attention != "sdpa" and tokens % _KERNEL_TOKENS == 0


def kept_of(
    depth: int, tokens: int, heads: int, read: float, linears: float, inputs: float, runtime: RuntimeRecipe
) -> float:
    """Bytes that `depth` blocks keep of one sequence; what is run again stands in memory for one block at a time.

    Attention's scores (float32) and weights (bf16) are added here where no kernel computes them.

    Args:
        tokens, heads: of the sequence, of its attention.
        read: bytes of a token that a block's backward pass reads besides. linears: those of them that linear layers
            made. inputs: of a block's input.
    """
    read += 0.0 if by_kernel(runtime, tokens) else 6.0 * heads * tokens
    each = {"none": read, "selective": linears + inputs, "blocks": inputs}[runtime.remat]
    return tokens * (depth * each + (0.0 if runtime.remat == "none" else read))


def repeated(runtime: RuntimeRecipe, *passes: tuple[float, int, Work]) -> float:
    """FLOPs that the backward pass runs again.

    Args:
        passes: how many sequences, of how many tokens, and the multiply-adds of one, by part.

    `selective` keeps what linear layers and the attention kernel return.
    """
    if runtime.remat == "none":
        return 0.0
    total = 0.0
    for many, tokens, work in passes:
        names = ["blocks", "attention", "modulation", "head.blocks", "head.attention", "head.modulation"]
        if runtime.remat == "selective":
            names = [] if by_kernel(runtime, tokens) else ["attention", "head.attention"]
        total += 2.0 * many * sum(work.get(name, 0) for name in names)
    return total
