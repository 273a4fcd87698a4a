"""The official decoder and a DINOv2 without registers once more, as plain formulas on official weights.

Independent of this project, see `plain_dit`. `mistake` names one convention that is broken on purpose.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.plain_dit import Weights, sincos


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(weights: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    q, k, v = (
        linear(weights, f"{name}.attention.{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in ("query", "key", "value")
    )
    mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return linear(weights, f"{name}.output.dense", mixed.transpose(1, 2).flatten(2))


def gelu(x: Tensor, mistake: str) -> Tensor:
    if mistake == "gelu tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def decoded(weights: Weights, z: Tensor, config: dict[str, Any], mistake: str = "") -> dict[str, Tensor]:
    """Outputs of GeneralDecoder by the fixture's names."""
    eps = 1e-3 if mistake == "eps" else config["layer_norm_eps"]
    patch, latent = config["patch_size"], config["latent_grid"]
    side = config["image_size"] // patch
    x = linear(weights, "decoder_embed", z)
    if side != latent:
        x = x.transpose(1, 2).unflatten(2, (latent, latent))
        x = F.interpolate(x, (side, side), mode="bilinear", align_corners=mistake == "align corners")
        x = x.flatten(2).transpose(1, 2)
    positions = weights["decoder_pos_embed"]
    if mistake == "swapped rows and columns":
        table = positions[:, 1:].unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)
        positions = torch.cat([positions[:, :1], table], 1)
    x = torch.cat([weights["trainable_cls_token"].expand(len(x), -1, -1), x], 1) + positions
    out: dict[str, Tensor] = {}
    for number in range(config["decoder_num_hidden_layers"]):
        name = f"decoder_layers.{number}"
        before = norm(weights, f"{name}.layernorm_before", x, eps)
        x = x + attention(weights, f"{name}.attention", before, config["decoder_num_attention_heads"])
        h = linear(weights, f"{name}.intermediate.dense", norm(weights, f"{name}.layernorm_after", x, eps))
        x = x + linear(weights, f"{name}.output.dense", gelu(h, mistake))
        out[f"hidden_after_layer_{number}"] = x
    logits = linear(weights, "decoder_pred", norm(weights, "decoder_norm", x, eps))[:, 1:]
    order = "nhwcpq->nchpwq" if mistake == "channel first" else "nhwpqc->nchpwq"
    shape = (3, patch, patch) if mistake == "channel first" else (patch, patch, 3)
    image = torch.einsum(order, logits.reshape(len(z), side, side, *shape)).reshape(len(z), 3, side * patch, -1)
    keep = ("hidden_after_layer_0", f"hidden_after_layer_{config['decoder_num_hidden_layers'] - 1}")
    return {name: out[name] for name in keep} | {"logits": logits, "logits_dummy_cls": logits, "image": image[:1]}


def positions(grid: int, width: int) -> Tensor:
    """`decoder_pos_embed`: a zero row, then the table."""
    return torch.cat([torch.zeros(1, 1, width), sincos((grid, grid), width)], 1)


def webssl(weights: Weights, pixels: Tensor, config: dict[str, Any], mistake: str = "") -> dict[str, Tensor]:
    """`features` and `last_hidden_state` of a Dinov2Model whose final norm keeps its affine."""
    eps = 1e-3 if mistake == "eps" else config["layer_norm_eps"]
    name, patch = "embeddings.patch_embeddings.projection", config["patch_size"]
    x = F.conv2d(pixels, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=patch).flatten(2).transpose(1, 2)
    table = weights["embeddings.position_embeddings"]
    if mistake == "swapped rows and columns":
        side = pixels.shape[-1] // patch
        table = torch.cat([table[:, :1], table[:, 1:].unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)], 1)
    x = torch.cat([weights["embeddings.cls_token"].expand(len(x), -1, -1), x], 1) + table
    for number in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{number}"
        mixed = attention(
            weights, f"{name}.attention", norm(weights, f"{name}.norm1", x, eps), config["num_attention_heads"]
        )
        x = x + weights[f"{name}.layer_scale1.lambda1"] * mixed
        h = gelu(linear(weights, f"{name}.mlp.fc1", norm(weights, f"{name}.norm2", x, eps)), mistake)
        x = x + weights[f"{name}.layer_scale2.lambda1"] * linear(weights, f"{name}.mlp.fc2", h)
    last = norm(weights, "layernorm", x, eps)
    if mistake == "no affine":
        last = (last - weights["layernorm.bias"]) / weights["layernorm.weight"]
    return {"last_hidden_state": last, "features": last[:, 1:]}
