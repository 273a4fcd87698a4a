"""Fixtures of kinds and sizes that no file is at hand for, made from the plain formulas.

`CASES` maps a name to a maker: `maker(mistake="...") -> Made`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tests.parity import plain_vit
from tests.parity.plain_dit_cases import class_dit, query_dit
from tests.parity.plain_made import Made, both, drawn, with_prefix


def decoder(
    kind: str,
    shape: tuple[int, int, int, int],
    channels: int,
    latent: int,
    side: int,
    patch: int,
    seed: int,
    bias: bool = True,
    eps: float = 1e-12,
    mistake: str = "",
) -> Made:
    """The decoder kinds: `side` x `side` drawn patches from `latent` x `latent` tokens.

    `shape`: width, depth, heads, width of the MLP.
    """
    width, depth, heads, mlp = shape
    shapes = both("decoder_embed", width, channels) | both("decoder_pred", 3 * patch * patch, width)
    for name in ("layernorm_before", "layernorm_after"):
        for number in range(depth):
            shapes |= {f"decoder_layers.{number}.{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
    for number in range(depth):
        name = f"decoder_layers.{number}"
        for part in ("query", "key", "value"):
            shapes |= both(f"{name}.attention.attention.{part}", width, width)
            if not bias:
                del shapes[f"{name}.attention.attention.{part}.bias"]
        shapes |= both(f"{name}.attention.output.dense", width, width)
        shapes |= both(f"{name}.intermediate.dense", mlp, width) | both(f"{name}.output.dense", width, mlp)
    shapes |= {"decoder_norm.weight": (width,), "decoder_norm.bias": (width,), "trainable_cls_token": (1, 1, width)}
    weights = drawn(shapes, seed) | {"decoder_pos_embed": plain_vit.positions(side, width)}
    config = {
        "hidden_size": channels, "patch_size": patch, "image_size": side * patch, "decoder_hidden_size": width,
        "decoder_num_hidden_layers": depth, "decoder_num_attention_heads": heads, "decoder_intermediate_size": mlp,
        "layer_norm_eps": eps, "hidden_act": "gelu", "qkv_bias": bias, "num_channels": 3,
        "num_patches": side * side, "latent_grid": latent, "batch": 2,
    }  # fmt: skip
    z = torch.randn(2, latent * latent, channels, generator=torch.Generator().manual_seed(seed + 1))
    out = plain_vit.decoded(weights, z, config, mistake)
    tensors = with_prefix("weight", weights) | {"input/z": z} | with_prefix("output", out)
    return Made(kind, config, tensors)


def webssl(width: int, depth: int, heads: int, ratio: int, side: int, patch: int, seed: int, mistake: str = "") -> Made:
    """`webssl_features`."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width), "embeddings.mask_token": (1, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "embeddings.position_embeddings": (1, 1 + side * side, width),
        "layernorm.weight": (width,), "layernorm.bias": (width,),
    }  # fmt: skip
    for number in range(depth):
        name = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            shapes |= both(f"{name}.attention.attention.{part}", width, width)
        shapes |= both(f"{name}.attention.output.dense", width, width)
        shapes |= both(f"{name}.mlp.fc1", ratio * width, width) | both(f"{name}.mlp.fc2", width, ratio * width)
        for norm in ("norm1", "norm2"):
            shapes |= {f"{name}.{norm}.{leaf}": (width,) for leaf in ("weight", "bias")}
        shapes |= {f"{name}.layer_scale{i}.lambda1": (width,) for i in (1, 2)}
    weights = drawn(shapes, seed)
    config = {
        "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "mlp_ratio": ratio,
        "image_size": side * patch, "patch_size": patch, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    }  # fmt: skip
    pixels = torch.randn(2, 3, side * patch, side * patch, generator=torch.Generator().manual_seed(seed + 1))
    tensors = with_prefix("weight", weights) | {"input/pixel_values": pixels}
    return Made(
        "webssl_features", config, tensors | with_prefix("output", plain_vit.webssl(weights, pixels, config, mistake))
    )


def sampler(tokens: int, channels: int, steps: int, width: int, seed: int, mistake: str = "") -> Made:
    """`scale_rae_sampler_grid`: the official loop, spelled out."""
    shift = math.sqrt(tokens * channels / 4096)
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(width, width, generator=draw) / width**0.5, torch.randn(width, generator=draw)
    noise = torch.randn(2, width, 4, 4, generator=draw)
    line = torch.linspace(0.001, 1, 1000)
    grid = shift * line / (1 + (shift - 1) * line)
    used = [round(999 * i / (steps - 1)) for i in range(steps)]
    x, seen, states = noise, [], {}
    pairs = [(used[i], used[i - 1]) for i in range(steps - 2, 0, -1)]
    if mistake == "starts at noise":
        pairs = [(used[-1], used[-2]), *pairs]
    if mistake != "no stray step":
        pairs = [*pairs, (used[-2], used[-1])]
    for number, (now, then) in enumerate(pairs):
        if number == steps - 2:
            states["x_before_stray_step"] = x
        seen.append(grid[now])
        v = torch.einsum("cj,bjhw->bchw", a, x) + grid[now] * b[:, None, None]
        x = x + (grid[then] - grid[now]) * v
        if number == 0:
            states["x_after_first_step"] = x
    even = torch.arange(steps, -1, -1).double() / steps
    states.setdefault("x_before_stray_step", x)
    out = {"sample": x, "t_evaluated": torch.stack(seen), "used_indices": torch.tensor(used), "grid_1000": grid}
    out |= {f"grid_{steps}": grid[used], **states}
    inputs = {"A": a, "b": b, "noise": noise}
    derived = {f"derived/t_grid_1_to_0_{steps}": (shift * even / (1 + (shift - 1) * even)).float()}
    config = {"tokens": tokens, "channels": channels, "steps": steps, "diffusion_steps": 1000, "shift": shift}
    tensors = with_prefix("input", inputs) | with_prefix("output", out) | derived
    return Made("scale_rae_sampler_grid", config, tensors)


def _sizes(layout: str, width: Any, depth: Any, heads: Any, z: int, **more: Any) -> dict[str, Any]:
    """Sizes as `plain_dit.velocity` wants them."""
    outer = layout == "scale_rae" or isinstance(depth, list)
    sizes = {"layout": layout, "width": width, "depth": depth, "heads": heads, "z": z}
    return {**sizes, "classic": None, "outer": outer, **more}


T2I, RAE = partial(_sizes, "scale_rae"), partial(_sizes, "rae")
LATENT, PATCH = "rae_upsample_latent", "rae_upsample_patch32"

CASES: dict[str, Callable[..., Made]] = {
    # the five kinds without a public fixture, at two sizes each
    "lightningdit": partial(class_dit, RAE(48, 2, 3, 48, classes=7), 12, 4, 1, 11),
    "lightningdit, patch 2, qk norm": partial(class_dit, RAE(64, 2, 2, 64, classes=5, qk_norm=True), 6, 8, 2, 12),
    "upsample latent 4 to 7": partial(decoder, LATENT, (48, 2, 4, 96), 24, 4, 7, 6, 21),
    "upsample latent 3 to 8, no bias": partial(decoder, LATENT, (64, 3, 2, 80), 40, 3, 8, 4, 22, bias=False),
    "upsample patch 32": partial(decoder, PATCH, (48, 2, 3, 64), 32, 3, 3, 32, 23),
    "upsample patch 28": partial(decoder, PATCH, (32, 2, 4, 64), 20, 5, 5, 28, 24),
    "sampler": partial(sampler, 256, 64, 50, 8, 31),
    "sampler of 20 steps": partial(sampler, 64, 48, 20, 6, 32),
    "webssl": partial(webssl, 32, 2, 2, 3, 5, 7, 41),
    "webssl, 3 deep": partial(webssl, 48, 3, 6, 2, 3, 14, 42),
    # public kinds at other sizes
    "decoder": partial(decoder, "rae_decoder_patch16", (40, 2, 5, 72), 28, 5, 5, 8, 51, eps=1e-6),
    "ditdh": partial(class_dit, RAE([32, 48], [2, 1], [2, 3], 32, classes=4), 10, 4, 1, 61),
    "dit, patch 2": partial(query_dit, "scale_rae_dit", T2I(48, 2, 2, 40), 5, 6, 2, 62),
    "dit without null and outer silu, qk norm": partial(
        query_dit, "scale_rae_dit", T2I(64, 1, 4, 24, dropout=0.0, outer=False, qk_norm=True), 16, 5, 1, 63
    ),
    "ddt wide": partial(query_dit, "scale_rae_ddt_wide", T2I([32, 64], [1, 2], [2, 4], 48), 12, 3, 1, 64),
    "ddt classic": partial(query_dit, "scale_rae_ddt_classic", T2I(48, 3, 3, 32, classic=1), 20, 4, 1, 65),
}
