"""Model FLOPs by formula, for MFU. The convention stands in `timing.py`."""


def transformer_flops(parameters: float, tokens: int, depth: int, width: int) -> float:
    """Multiply-adds of one sample's forward pass through a transformer.

    Args:
        parameters: those that stand in matrix products, each used once per token.
        tokens, depth, width: for the two attention products, 2 x tokens^2 x width a layer (no causal saving counted).
    """
    return tokens * parameters + 2.0 * depth * tokens**2 * width
