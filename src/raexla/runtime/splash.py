"""Splash attention, jax's Pallas kernel for TPUs, as two functions of arrays: forward, and the gradients from what
forward kept. Scores never stand in memory, key heads are shared without being repeated, and tiles that a causal mask
leaves empty are not computed.

B: batch, H: query heads, G: key heads (G divides H), L: tokens, D: channels of a head. jax is imported when a function
is called: it comes with the extras `tpu` and `plan`.
"""

from functools import cache
from typing import Any

TILE = 512
"""Tokens on a tile's side at most (that of torch_xla's flash attention and of MaxText)."""
LANES = 128
"""What a sequence must be a multiple of: the width of a TPU's vector registers."""


def tile_side(tokens: int) -> int:
    """Side of the tiles that a sequence is cut into: the largest multiple of 128 up to 512 that divides it.

    Raises:
        ValueError: no multiple of 128.
    """
    for side in range(TILE, 0, -LANES):
        if tokens % side == 0:
            return side
    raise ValueError(f"{tokens} tokens: no multiple of {LANES}")


def kernel_flops(batch: int, heads: int, tokens: int, channels: int, causal: bool) -> tuple[int, int]:
    """FLOPs of a call, (forward, backward): two matrix products of each tile that is not empty, and five."""
    side = tile_side(tokens)
    rows = tokens // side
    tiles = rows * (rows + 1) // 2 if causal else rows * rows
    product = 2 * batch * heads * tiles * side * side * channels
    return 2 * product, 5 * product


def forward(q: Any, k: Any, v: Any, *, causal: bool, interpret: bool = False) -> tuple[Any, Any]:
    """softmax(q k^T) v, without a scale.

    Args:
        q: [B, H, L, D], scaled already. k, v: [B, G, L, D].
        interpret: run it with jax's own operations, on any device.

    Returns:
        The same shape as q, and the logarithm of each row's normaliser, float32 [B, H, L].
    """
    import jax

    kernel = _kernel(q.shape[1], q.shape[2], causal, interpret)

    def one(q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        made, (normaliser,) = kernel(q, k, v)
        return made, normaliser

    found: tuple[Any, Any] = jax.vmap(one)(q, k, v)
    return found


def backward(
    q: Any, k: Any, v: Any, made: Any, normaliser: Any, gradient: Any, *, causal: bool, interpret: bool = False
) -> tuple[Any, Any, Any]:
    """Gradients of q, k and v, from `forward`'s arguments and results and the gradient [B, H, L, D] of its first."""
    import jax
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    kernel = _kernel(q.shape[1], q.shape[2], causal, interpret)
    options = {"attn_logits_soft_cap": None, "residual_checkpoint_name": None, **kernel.kwargs, "save_residuals": False}

    def one(q: Any, k: Any, v: Any, made: Any, normaliser: Any, gradient: Any) -> tuple[Any, Any, Any]:
        kept = (q, k, v, None, None, made, normaliser, kernel.dq_mask_info, kernel.dkv_mask_info)
        found = splash._splash_attention_bwd(**options, res=kept, do=gradient)
        return found[3], found[4], found[5]

    found: tuple[Any, Any, Any] = jax.vmap(one)(q, k, v, made, normaliser, gradient)
    return found


@cache
def _kernel(heads: int, tokens: int, causal: bool, interpret: bool) -> Any:
    import jax
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    side = tile_side(tokens)
    blocks = splash.BlockSizes(
        block_q=side,
        block_kv=side,
        block_kv_compute=side,
        block_q_dkv=side,
        block_kv_dkv=side,
        block_kv_dkv_compute=side,
        use_fused_bwd_kernel=True,
    )
    mask = (masks.CausalMask if causal else masks.FullMask)((tokens, tokens))
    with jax.ensure_compile_time_eval():  # its tables of tiles are constants, whatever is being traced
        return splash.make_splash_mha(
            masks.MultiHeadMask([mask] * heads),
            block_sizes=blocks,
            head_shards=1,
            q_seq_shards=1,
            save_residuals=True,
            interpret=interpret,
        )
