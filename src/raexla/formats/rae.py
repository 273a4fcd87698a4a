"""What RAE's released files say about sizes: decoders, class-conditional DiTs, latent statistics, DINO backbones.

Sizes come from a `config.json` where there is one, from the tensors' shapes where they tell, and from options for the
rest (attention heads stand in no tensor's shape, except in rotation tables).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raexla.models.critic.features import DINO_SIZES
from raexla.models.critic.recipe import DinoFeaturesRecipe
from raexla.models.decoder import DecoderRecipe
from raexla.models.decoder.official import DERIVED as POSITIONS
from raexla.models.decoder.recipe import SIZES
from raexla.models.dit import DiTRecipe
from raexla.recipe import UserError

_EPS = 1e-12  # ViTMAEConfig's default, which a config.json may leave out
_BLOCK = re.compile(r"blocks\.(\d+)\.norm1\.weight\Z")


def decoder_recipe(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, size: str | None
) -> tuple[DecoderRecipe, str]:
    """The recipe of a released decoder, and where its sizes come from.

    Args:
        config: the `config.json` beside it (`ViTMAEConfig`), if there is one.
        size: `B`, `L` or `XL` instead.

    Raises:
        UserError: neither, or a configuration that describes another kind of decoder.
    """
    if size is not None:
        if size not in SIZES:
            raise UserError(f"--size {size}: a decoder is {', '.join(SIZES)}")
        return DecoderRecipe(size=size, patch_size=_drawn_patch(tensors)), f"--size {size}"
    if config is None:
        raise UserError(
            "there is no config.json beside this decoder, and its heads stand in no tensor's shape: give --size "
            "or --config FILE (RAE keeps them in configs/decoder/)"
        )
    names = {
        "width": "decoder_hidden_size",
        "depth": "decoder_num_hidden_layers",
        "heads": "decoder_num_attention_heads",
        "mlp": "decoder_intermediate_size",
    }
    if absent := [name for name in names.values() if name not in config]:
        raise UserError(f"config.json does not say {', '.join(absent)}: say --size or give another --config")
    expected = {"hidden_act": "gelu", "num_channels": 3}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise UserError(f"config.json has {key} {config[key]!r}; released decoders have {value!r}")
    values: dict[str, Any] = {ours: int(config[theirs]) for ours, theirs in names.items()}
    values |= {"patch_size": int(config.get("patch_size", 0)) or _drawn_patch(tensors)}
    values |= {"norm_eps": float(config.get("layer_norm_eps", _EPS)), "qkv_bias": bool(config.get("qkv_bias", True))}
    for name, shape in SIZES.items():
        if shape == tuple(values[key] for key in names):
            values = {key: value for key, value in values.items() if key not in names} | {"size": name}
    return DecoderRecipe.model_validate(values), "config.json"


def decoder_tokens(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, patch: int) -> int | None:
    """How many tokens a released decoder draws: its position table says it, else its configuration."""
    if POSITIONS in tensors:
        return int(tensors[POSITIONS].shape[1]) - 1
    if config is not None and "image_size" in config:
        return (int(config["image_size"]) // patch) ** 2
    return None


def _drawn_patch(tensors: Mapping[str, Tensor]) -> int:
    """The patch of a decoder from its last linear [3 p p, D]; 1 if that is missing, which the report then says."""
    rows = tensors["decoder_pred.bias"].shape[0] if "decoder_pred.bias" in tensors else 3
    return max(1, round((rows / 3) ** 0.5))


def statistics_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`mean` and `var` [N, C] (or [1, C]) of `stat.pt` ([C, h, w]) or of Scale-RAE's norm statistics ([N, C]).

    Raises:
        UserError: shapes that are neither.
    """
    if "running_mean" in tensors:
        mean, var = (tensors[f"running_{name}"].float() for name in ("mean", "var"))
        mean, var = mean.reshape(-1, mean.shape[-1]), var.reshape(-1, var.shape[-1])
    else:
        mean, var = (tensors[name].float().reshape(tensors[name].shape[0], -1).T for name in ("mean", "var"))
    if mean.shape != var.shape:
        raise UserError(
            f"statistics with a mean {list(mean.shape)} and a variance {list(var.shape)} (tokens, channels)"
        )
    if not bool((var > 0).all()) or not bool(torch.isfinite(mean).all()):
        raise UserError("statistics whose variance is not positive everywhere, or whose mean is not finite")
    return {"mean": mean.contiguous(), "var": var.contiguous()}


def dit_recipe(
    tensors: Mapping[str, Tensor],
    classes: int | None,
    heads: int | None,
    head_heads: int | None,
    head_depth: int | None,
) -> tuple[DiTRecipe, int, list[str]]:
    """The recipe of a class-conditional DiT of RAE from its shapes, its latent's channels, and what was read from what.

    Args:
        classes: without the null class; one less than the label table has rows if not given.
        heads, head_heads: of the backbone and of the DDT head; from the rotation tables if not given.
        head_depth: blocks of the head; needed only where it is as wide as the backbone.

    Raises:
        UserError: a key is missing without which nothing can be said, or an option is needed.
    """
    channels, split = dit_channels(tensors), "s_embedder.proj.weight" in tensors
    widths = {int(m[1]): int(value.shape[0]) for key, value in tensors.items() if (m := _BLOCK.match(key))}
    depth = 1 + max(widths, default=-1)
    embedder = tensors["s_embedder.proj.weight" if split else "x_embedder.proj.weight"]
    width, patch = int(embedder.shape[0]), int(embedder.shape[-1])
    rows = int(tensors["y_embedder.embedding_table.weight"].shape[0])
    count = classes if classes is not None else rows - 1
    if rows not in (count, count + 1):
        raise UserError(
            f"--classes {count}: the label table has {rows} rows, which is {rows - 1} classes and the null class"
        )
    lines = [
        f"{count} classes" + (" and the null class" if rows == count + 1 else ", no null class") + f" ({rows} labels)"
    ]
    values: dict[str, Any] = {
        "width": width,
        "heads": _heads(tensors, width, "enc_feat_rope" if split else "feat_rope", heads, "--heads", lines),
        "patch_size": patch,
        "qk_norm": any(key.endswith("attn.q_norm.weight") for key in tensors),
        "conditioning": {"type": "class", "num_classes": count},
        "condition_dropout": 0.1 if rows == count + 1 else 0.0,
        "outer_silu": split,
    }
    if split:
        head_width = int(tensors["x_embedder.proj.weight"].shape[0])
        head_heads = _heads(tensors, head_width, "dec_feat_rope", head_heads, "--head-heads", lines)
        if head_depth is None and head_width == width:
            raise UserError(
                f"head and backbone are both {width} wide: say by --head-depth how many blocks are the head's"
            )
        if head_depth is None:
            head_depth = sum(found == head_width for found in widths.values())
        values["head"] = {"wiring": "rae", "width": head_width, "depth": max(1, head_depth), "heads": head_heads}
        depth -= head_depth
        width = head_width
    values |= {"depth": max(1, depth), "allow_narrow": width < channels * patch**2}
    return DiTRecipe.model_validate(values), channels, lines


def dit_channels(tensors: Mapping[str, Tensor]) -> int:
    """Channels of a DiT's latent.

    Raises:
        UserError: a key is missing without which nothing can be said.
    """
    need = ["x_embedder.proj.weight", "y_embedder.embedding_table.weight"]
    if absent := [key for key in need if key not in tensors]:
        raise UserError(
            "\n  ".join(["this is not RAE's class-conditional DiT:", *(f"missing: {key}" for key in absent)])
        )
    return int(tensors["x_embedder.proj.weight"].shape[1])


def _heads(
    tensors: Mapping[str, Tensor], width: int, table: str, given: int | None, option: str, lines: list[str]
) -> int:
    key = f"{table}.freqs_cos"
    if given is not None:
        return given
    if key not in tensors:
        raise UserError(f"{key} is not in the file, and heads stand in no other tensor's shape: say {option}")
    found = width // int(tensors[key].shape[-1])
    lines.append(f"{found} heads on {width} channels ({key})")
    return found


def dino_recipe(tensors: Mapping[str, Tensor], path: str) -> DinoFeaturesRecipe:
    """Which of the critic's DINO ViTs a file holds: its width and patch say it.

    Raises:
        UserError: none of them.
    """
    shape = tensors["patch_embed.proj.weight"].shape
    for size, (width, _, _, patch) in DINO_SIZES.items():
        if (shape[0], shape[-1]) == (width, patch):
            return DinoFeaturesRecipe(type="dino", size=size, path=path)  # type: ignore[arg-type]
    known = ", ".join(f"{size} ({width} wide, patch {patch})" for size, (width, _, _, patch) in DINO_SIZES.items())
    raise UserError(f"a ViT {shape[0]} wide with patch {shape[-1]} is none of the critic's: {known}")
