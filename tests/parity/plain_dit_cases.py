"""Fixtures of the diffusion transformers at any size, made from the plain formulas."""

from typing import Any

import torch
from torch import Tensor

from tests.parity import plain_dit
from tests.parity.plain_dit import Weights
from tests.parity.plain_made import Made, both, drawn, with_prefix


def _dit_block(name: str, width: int, z: int, heads: int, qk_norm: bool) -> dict[str, tuple[int, ...]]:
    hidden = int(2 / 3 * 4 * width)
    shapes = both(f"{name}.attn.qkv", 3 * width, width) | both(f"{name}.attn.proj", width, width)
    shapes |= both(f"{name}.mlp.w12", 2 * hidden, width) | both(f"{name}.mlp.w3", width, hidden)
    shapes |= both(f"{name}.adaLN_modulation.1", 6 * width, z)
    norms = ["norm1", "norm2"]
    shapes |= {f"{name}.{norm}.weight": (width,) for norm in norms}
    if qk_norm:
        shapes |= {f"{name}.attn.{norm}.weight": (width // heads,) for norm in ("q_norm", "k_norm")}
    return shapes


def dit_weights(sizes: dict[str, Any], channels: int, patch: int, grid: tuple[int, int], seed: int) -> Weights:
    """Official weights of `plain_dit.velocity`'s sizes, with `width` and `z`, `classes` or None, `qk_norm`."""
    rae, z = sizes["layout"] == "rae", sizes["z"]
    pair = isinstance(sizes["depth"], list)
    widths = sizes["width"] if pair else [sizes["width"], sizes["width"]]
    heads = sizes["heads"] if pair else [sizes["heads"]] * 2
    depth = (
        sizes["depth"]
        if pair
        else [sizes["classic"] or sizes["depth"], sizes["depth"] - (sizes["classic"] or sizes["depth"])]
    )
    prefix = "blocks" if rae else "dit_blocks"
    first, second = ("s_embedder", "x_embedder") if rae and pair else ("x_embedder", "s_embedder")
    headed = pair or bool(sizes["classic"])
    shapes: dict[str, tuple[int, ...]] = {
        f"{first}.proj.weight": (widths[0], channels, patch, patch), f"{first}.proj.bias": (widths[0],)
    }  # fmt: skip
    if headed:
        shapes |= {f"{second}.proj.weight": (widths[1], channels, patch, patch), f"{second}.proj.bias": (widths[1],)}
        if widths[0] != widths[1]:
            shapes |= both("s_projector", widths[1], widths[0])
    for number in range(sum(depth)):
        part = 0 if number < depth[0] else 1
        shapes |= _dit_block(
            f"{prefix}.{number}", widths[part], z if part == 0 else widths[1], heads[part], sizes.get("qk_norm", False)
        )
    out_width, out_z = (widths[1], widths[1]) if headed else (widths[0], z)
    shapes |= both("t_embedder.mlp.0", z, 512) | both("t_embedder.mlp.2", z, z)
    shapes |= both("final_layer.linear", channels * patch * patch, out_width)
    shapes |= both("final_layer.adaLN_modulation.1", 2 * out_width, out_z)
    shapes["final_layer.norm_final.weight"] = (out_width,)
    if rae:
        shapes["t_embedder.W"] = (256,)
        shapes["y_embedder.embedding_table.weight"] = (sizes["classes"] + 1, z)
    elif sizes.get("dropout", 0.1):
        shapes["y_embedder.dropout_embedding"] = (z,)
    weights = drawn(shapes, seed)
    weights["pos_embed"] = plain_dit.sincos((grid[0] // patch, grid[1] // patch), widths[0])
    names = ("enc_feat_rope", "dec_feat_rope") if rae else ("enc_rope", "dec_rope")
    ropes = (
        dict(zip(names, (widths[i] // heads[i] for i in (0, 1)), strict=True))
        if pair
        else {"feat_rope": widths[0] // heads[0]}
    )
    for name, size in ropes.items():
        cos, sin = plain_dit.rotations((grid[0] // patch, grid[1] // patch), size)
        weights |= {f"{name}.freqs_cos": cos, f"{name}.freqs_sin": sin}
    return weights


def class_dit(sizes: dict[str, Any], channels: int, side: int, patch: int, seed: int, mistake: str = "") -> Made:
    """`rae_lightningdit`, or `rae_ditdh` where depth is a pair."""
    pair = isinstance(sizes["depth"], list)
    draw = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(2, channels, side, side, generator=draw)
    label = torch.tensor([1, sizes["classes"] - 1])
    times = {"t_0": [0.31, 0.77], "t_1": [0.05, 0.96], "t_in": [0.4, 0.6], "t_out": [0.95, 0.03]}
    times |= {"t_mixed": [0.5, 0.95], "t_edge": [0.1, 0.9]} if pair else {}
    t = {name: torch.tensor(values) for name, values in times.items()}
    small = {**sizes, "depth": [1, 1] if pair else 1, "width": [32, 48] if pair else 32, "heads": [2, 3] if pair else 2}
    small["z"] = 32
    strong = dit_weights(sizes, channels, patch, (side, side), seed)
    weak = dit_weights(small, channels, patch, (side, side), seed + 2)
    for value in strong.values():
        value.requires_grad_(True)

    def run(weights: Weights, which: dict[str, Any], time: str, labels: Tensor) -> Tensor:
        y = weights["y_embedder.embedding_table.weight"][labels][:, None]
        return plain_dit.velocity(weights, x, t[time], y, which, mistake)

    null = torch.full_like(label, sizes["classes"])
    out = {name: run(strong, sizes, name[2:], label) for name in ("v_t_0", "v_t_1")}
    out["v_null"] = run(strong, sizes, "t_0", null)
    for time in [name for name in t if name not in ("t_0", "t_1")]:
        c = run(strong, sizes, time, label)
        for name, w in (("cfg2", run(strong, sizes, time, null)), ("ag2", run(weak, small, time, label))):
            inside = (t[time] >= 0.1) & (t[time] <= 0.9)
            if not pair:  # inverted, and the first sample decides; the mistake is to be right
                inside = inside if mistake == "interval not inverted" else ~inside[:1].expand(2)
            key = f"{name}_{time[2:]}" if pair else f"{name}_{time}"
            out[key] = torch.where(inside[:, None, None, None], w + 2 * (c - w), c)
    if pair:
        out["v_guide_t_0"] = run(weak, small, "t_0", label)
    keys = ["x_embedder.proj.weight", "blocks.1.adaLN_modulation.1.weight", "y_embedder.embedding_table.weight"]
    grads = torch.autograd.grad(out["v_t_0"].pow(2).mean(), [strong[key] for key in keys])
    config: dict[str, Any] = {
        "grid" if pair else "input_size": side, "patch_size": patch, "in_channels": channels,
        "hidden_size": sizes["width"], "depth": sizes["depth"], "num_heads": sizes["heads"],
        "num_classes": sizes["classes"], "class_dropout_prob": 0.1,
    }  # fmt: skip
    if pair:
        config["guide"] = {"hidden_size": small["width"], "depth": small["depth"], "num_heads": small["heads"]}
    if sizes.get("qk_norm"):
        config["use_qknorm"] = True
    tensors = with_prefix("weight", strong) | with_prefix("weight_guide", weak)
    tensors |= with_prefix("input", {"x": x, "label": label, **t}) | with_prefix("output", out)
    tensors |= with_prefix("grad", dict(zip(keys, grads, strict=True)))
    return Made("rae_ditdh" if pair else "rae_lightningdit", config, tensors)


def query_dit(
    kind: str, sizes: dict[str, Any], channels: int, side: int, patch: int, seed: int, mistake: str = ""
) -> Made:
    """`scale_rae_dit` and its two DDT forms."""
    frequencies = torch.normal(0.0, 1.0, (256,), generator=torch.Generator().manual_seed(114514))
    sizes = {**sizes, "frequencies": frequencies}
    weights = dit_weights(sizes, channels, patch, (side, side), seed)
    draw = torch.Generator().manual_seed(seed + 1)
    count = (side // patch) ** 2
    x, y = torch.randn(3, channels, side, side, generator=draw), torch.randn(3, count, sizes["z"], generator=draw)
    t = {f"t_{i}": torch.rand(3, generator=draw) for i in range(2)}
    for value in weights.values():
        value.requires_grad_(True)
    out = {f"v_{i}": plain_dit.velocity(weights, x, t[f"t_{i}"], y, sizes, mistake) for i in range(2)}
    key = "dit_blocks.0.attn.qkv.weight"
    (grad,) = torch.autograd.grad(out["v_0"].pow(2).mean(), [weights[key]], retain_graph=True)
    grads = {key: grad}
    extra: Weights = {}
    if "y_embedder.dropout_embedding" in weights:
        null = weights["y_embedder.dropout_embedding"].expand_as(y)
        out["v_uncond"] = plain_dit.velocity(weights, x, t["t_0"], null, sizes, mistake)
        extra["drop_uniform"] = torch.tensor([0.5, 0.01, 0.2])
        mixed = torch.where((extra["drop_uniform"] < 0.1)[:, None, None], null, y)
        out["v_train_drop"] = plain_dit.velocity(weights, x, t["t_0"], mixed, sizes, mistake)
        u = plain_dit.velocity(weights, x, t["t_1"], null, sizes, mistake)
        out["v_cfg_scale2.5_empty_interval"] = u + 2.5 * (out["v_1"] - u)
        out["v_cfg_scale2.5_default_interval"] = out["v_1"]
        (grads["y_embedder.dropout_embedding"],) = torch.autograd.grad(
            out["v_uncond"].pow(2).mean(), [weights["y_embedder.dropout_embedding"]]
        )
    config = {
        "diffusion_tokens": side * side, "diffusion_channels": channels, "z_channels": sizes["z"], "patch_size": patch,
        "model_hidden_size": sizes["width"], "model_depth": sizes["depth"], "model_heads": sizes["heads"],
        "class_dropout_prob": sizes.get("dropout", 0.1), "dit_cls": "DiT", "cond_silu": sizes["outer"],
        "use_qknorm": sizes.get("qk_norm", False),
    }  # fmt: skip
    if sizes["classic"]:
        config |= {"use_DDT": True, "DDT_encoder_depth": sizes["classic"]}
    tensors = with_prefix("weight", weights) | with_prefix("input", {"x": x, "y": y, **t, **extra})
    return Made(kind, config, tensors | with_prefix("output", out) | with_prefix("grad", grads))
