"""The official diffusion transformers once more, as plain formulas on a dictionary of official weights.

Written from the conventions that the fixtures state, without anything of this project, so that a fixture made with it
is an independent one. `mistake` names one convention that is broken on purpose.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def sincos(grid: tuple[int, int], width: int) -> Tensor:
    """[1, N, width]: the first half encodes the column, the second the row; sines before cosines."""
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.arange(grid[0]).double(), torch.arange(grid[1]).double()
    by_row = (rows[:, None] * omega).repeat_interleave(grid[1], 0)
    by_column = (columns[:, None] * omega).repeat(grid[0], 1)
    return torch.cat([by_column.sin(), by_column.cos(), by_row.sin(), by_row.cos()], 1).float()[None]


def rotations(grid: tuple[int, int], channels: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, channels]: the first half turns with the row, in adjacent pairs."""
    pairs = 10000.0 ** (-torch.arange(0, channels // 2, 2).double() / (channels // 2))
    rows = torch.arange(grid[0]).double().repeat_interleave(grid[1])
    columns = torch.arange(grid[1]).double().repeat(grid[0])
    angles = torch.cat([rows[:, None] * pairs, columns[:, None] * pairs], 1).repeat_interleave(2, 1)
    return angles.cos().float(), angles.sin().float()


def rms(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def turned(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = table
    quarter = torch.empty_like(x)
    quarter[..., 0::2], quarter[..., 1::2] = -x[..., 1::2], x[..., 0::2]
    return x * cos + quarter * sin


def block(weights: Weights, name: str, x: Tensor, c: Tensor, heads: int, table: Any, mistake: str) -> Tensor:
    eps = 1e-3 if mistake == "eps" else 1e-6
    parts = linear(weights, f"{name}.adaLN_modulation.1", F.silu(c)).chunk(6, -1)
    shift1, scale1, gate1, shift2, scale2, gate2 = parts
    h = rms(x, weights[f"{name}.norm1.weight"], eps) * (1 + scale1) + shift1
    q, k, v = linear(weights, f"{name}.attn.qkv", h).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    if f"{name}.attn.q_norm.weight" in weights:
        q, k = rms(q, weights[f"{name}.attn.q_norm.weight"]), rms(k, weights[f"{name}.attn.k_norm.weight"])
    q, k = turned(q, table), turned(k, table)
    mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    x = x + gate1 * linear(weights, f"{name}.attn.proj", mixed.transpose(1, 2).flatten(2))
    h = rms(x, weights[f"{name}.norm2.weight"], eps) * (1 + scale2) + shift2
    a, b = linear(weights, f"{name}.mlp.w12", h).chunk(2, -1)
    return x + gate2 * linear(weights, f"{name}.mlp.w3", F.silu(a) * b)


def time_features(weights: Weights, t: Tensor, frequencies: Tensor) -> Tensor:
    angles = 2 * math.pi * t[:, None] * frequencies
    hidden = linear(weights, "t_embedder.mlp.0", torch.cat([angles.sin(), angles.cos()], 1))
    return linear(weights, "t_embedder.mlp.2", F.silu(hidden))


def embedded(weights: Weights, name: str, x: Tensor) -> Tensor:
    """A strided convolution, tokens row-major."""
    kernel = weights[f"{name}.proj.weight"]
    return F.conv2d(x, kernel, weights[f"{name}.proj.bias"], stride=kernel.shape[-1]).flatten(2).transpose(1, 2)


def painted(weights: Weights, x: Tensor, c: Tensor, grid: tuple[int, int], channels: int) -> Tensor:
    """The final layer, then tokens to [B, C, h, w], channel fastest inside a patch."""
    shift, scale = linear(weights, "final_layer.adaLN_modulation.1", F.silu(c)).chunk(2, -1)
    x = rms(x, weights["final_layer.norm_final.weight"]) * (1 + scale) + shift
    x = linear(weights, "final_layer.linear", x)
    p = round((x.shape[-1] / channels) ** 0.5)
    x = x.reshape(len(x), *grid, p, p, channels)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), channels, grid[0] * p, grid[1] * p)


def velocity(weights: Weights, x: Tensor, t: Tensor, y: Tensor, sizes: dict[str, Any], mistake: str = "") -> Tensor:
    """v [B, C, H, W] of a noisy latent.

    Args:
        y: the condition [B, N or 1, Z], already embedded.
        sizes: `layout` (rae, scale_rae), `depth` and `heads` (numbers; pairs with a head of its own width), `outer`
            (SiLU on time + condition), `classic` (official encoder depth) or None.
    """
    rae = sizes["layout"] == "rae"
    blocks = "blocks" if rae else "dit_blocks"
    pair = isinstance(sizes["depth"], list | tuple)
    # RAE calls the embedding of the backbone `s`, where there is a head; Scale-RAE that of the head
    first, second = ("s_embedder", "x_embedder") if rae and pair else ("x_embedder", "s_embedder")
    patch = weights[f"{first}.proj.weight"].shape[-1]
    grid = (x.shape[2] // patch, x.shape[3] // patch)
    width = weights[f"{first}.proj.weight"].shape[0]
    heads = sizes["heads"] if pair else (sizes["heads"], sizes["heads"])
    depth = sizes["depth"] if pair else (sizes["classic"] or sizes["depth"], 0)
    total = sum(sizes["depth"]) if pair else sizes["depth"]
    time = time_features(weights, t, weights["t_embedder.W"] if rae else sizes["frequencies"])
    c = time[:, None] + y
    c = F.silu(c) if sizes["outer"] else c
    positions = sincos(grid, width)
    if mistake == "swapped rows and columns":
        positions = positions.reshape(1, *grid, width).transpose(1, 2).reshape(1, -1, width)
    h = embedded(weights, first, x) + positions
    for number in range(depth[0]):
        h = block(weights, f"{blocks}.{number}", h, c, heads[0], rotations(grid, width // heads[0]), mistake)
    if pair or sizes["classic"]:
        c = F.silu(h + time[:, None]) if rae else F.silu(h)
        if "s_projector.weight" in weights:
            c = linear(weights, "s_projector", c)
        h = embedded(weights, second, x)
        for number in range(depth[0], total):
            table = rotations(grid, h.shape[-1] // heads[1])
            h = block(weights, f"{blocks}.{number}", h, c, heads[1], table, mistake)
    return painted(weights, h, c, grid, x.shape[1])
