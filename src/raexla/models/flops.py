"""Multiply-adds of a forward pass, in closed form: what MFU counts and what the papers' tables are held against.

A count is of one sample and of matrix products only (linears, attention, resizing by matrices); a FLOP figure is twice
as much. Norms, activations, softmax and rotations are left out, as `torch.utils.flop_counter` leaves them out, with
which these formulas agree exactly. They need sizes alone: nothing is built, nothing is run.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raexla.models.codecs import AlignTokCodec, PixelsCodec, RAECodec, VAECodec
from raexla.models.decoder import DecoderRecipe
from raexla.models.dit import ClassConditioning, DiTRecipe
from raexla.models.mllm import MLLMRecipe
from raexla.nn.swiglu import swiglu_width
from raexla.nn.timestep import FOURIER_FREQUENCIES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, Qwen2Config

    from raexla.models.encoders import Encoder


class Work(dict[str, int]):
    """Multiply-adds by part: `blocks`, `attention` (its two products), `modulation`, `head.blocks`, ..."""

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.values())

    def without(self, *names: str) -> "Work":
        """Less the parts of these names, under any prefix: `attention` takes `head.attention` away too."""
        return Work(
            {part: work for part, work in self.items() if not f".{part}".endswith(tuple(f".{n}" for n in names))}
        )

    def under(self, prefix: str) -> "Work":
        """The parts whose name begins with `prefix`, without it."""
        return Work({part.removeprefix(prefix): work for part, work in self.items() if part.startswith(prefix)})


def dit_work(recipe: DiTRecipe, grid: tuple[int, int], channels: int) -> Work:
    """One velocity of a `LightningDiT` on a latent of `grid` x `channels`.

    Conditions of one per sample (a class) are modulated once; one per token, and the head's always are, once a token.
    """
    tokens, token = grid[0] * grid[1] // recipe.patch_size**2, channels * recipe.patch_size**2
    width, z = recipe.width, recipe.condition_width
    conditions = 1 if isinstance(recipe.conditioning, ClassConditioning) else tokens
    work = Work(
        {"time": 2 * FOURIER_FREQUENCIES * z + z * z, "embed": tokens * token * width},
        **_gated_blocks(tokens, width, recipe.depth),
        modulation=recipe.depth * conditions * z * 6 * width,
    )
    if recipe.head is not None:
        backbone, width, z, conditions = width, recipe.head.width, recipe.head.width, tokens
        work |= {"head.embed": tokens * token * width}
        work |= {"head.projector": tokens * backbone * width if backbone != width else 0}
        work |= {f"head.{part}": count for part, count in _gated_blocks(tokens, width, recipe.head.depth).items()}
        work |= {"head.modulation": recipe.head.depth * tokens * width * 6 * width}
    return Work(work | {"final.modulation": conditions * z * 2 * width, "final": tokens * width * token})


def _gated_blocks(tokens: int, width: int, depth: int) -> Work:
    linears = 4 * width**2 + 3 * width * swiglu_width(width)
    return Work(blocks=depth * tokens * linears, attention=depth * _attention(tokens, width))


def _attention(tokens: int, width: int) -> int:
    """Queries x keys and weights x values of all heads; a causal mask saves nothing here."""
    return 2 * tokens**2 * width


def _resizing(rows: tuple[int, int], columns: tuple[int, int], planes: int) -> int:
    """`planes` planes from rows[0] x columns[0] to rows[1] x columns[1], columns first (`nn.resize`)."""
    if rows[0] == rows[1] and columns[0] == columns[1]:
        return 0
    return planes * (rows[0] * columns[0] * columns[1] + rows[1] * rows[0] * columns[1])


def decoder_work(recipe: DecoderRecipe, grid: tuple[int, int], channels: int) -> Work:
    """One picture of a `ViTDecoder` from a latent of `grid` x `channels`; the CLS token counts in the blocks."""
    width, depth, _, mlp = recipe.shape
    rows, columns = recipe.grid or grid
    tokens = rows * columns
    return Work(
        embed=grid[0] * grid[1] * channels * width,
        resize=_resizing((grid[0], rows), (grid[1], columns), width),
        blocks=depth * (tokens + 1) * (4 * width**2 + 2 * width * mlp),
        attention=depth * _attention(tokens + 1, width),
        final=tokens * width * 3 * recipe.patch_size**2,
    )


def vision_work(config: "PretrainedConfig", side: int) -> Work:
    """One image of `side` x `side` patches through a Hugging Face vision transformer (SigLIP, DINOv2, ViT-MAE).

    Its class and register tokens count in the blocks; a pooling head does not.
    """
    sizes: Any = config
    width, depth, patch = sizes.hidden_size, sizes.num_hidden_layers, sizes.patch_size
    mlp = sizes.intermediate_size if hasattr(sizes, "intermediate_size") else int(width * sizes.mlp_ratio)
    linears = 2 * width * mlp
    if getattr(sizes, "use_swiglu_ffn", False):  # DINOv2's giant: two thirds of the width, rounded up to 8, gated
        linears = 3 * width * ((int(mlp * 2 / 3) + 7) // 8 * 8)
    tokens = side * side + getattr(sizes, "num_register_tokens", 0)
    tokens += 0 if sizes.model_type == "siglip_vision_model" else 1
    return Work(
        embed=side * side * 3 * patch * patch * width,
        blocks=depth * tokens * (4 * width**2 + linears),
        attention=depth * _attention(tokens, width),
    )


def image_work(config: "PretrainedConfig", image_size: int, input_size: int) -> Work:
    """The tokens of one image of `image_size` pixels by a vision transformer that sees `input_size` of them.

    `positions`, the interpolation of the position table, is the same for every image: it runs once a batch.
    """
    sizes: Any = config
    native, side = sizes.image_size // sizes.patch_size, input_size // sizes.patch_size
    return Work(
        resize=_resizing((image_size, input_size), (image_size, input_size), 3),
        positions=_resizing((native, side), (native, side), sizes.hidden_size),
        **vision_work(config, side),
    )


def encoder_work(encoder: "Encoder") -> Work:
    """The tokens of one image by a frozen encoder; it may stand on `meta`, only its sizes are read."""
    return image_work(encoder.model.config, encoder.image_size, encoder.input_size)


def vae_work(
    blocks: Sequence[int], layers_per_block: int, latent_channels: int, image_size: int, *, quantised: bool = True
) -> Work:
    """One image of `image_size` through diffusers' `AutoencoderKL` (SD, FLUX) and back: `encoder.*` and `decoder.*`.

    Args:
        blocks, layers_per_block, latent_channels: `block_out_channels` and so on of its configuration.
        quantised: whether the 1 x 1 convolutions around the latent are there (SD: yes, FLUX: no).
    """
    side, bottom = image_size // 2 ** (len(blocks) - 1), blocks[-1]
    middle = 2 * _resnet(bottom, bottom, side)
    down = _convolution(3, blocks[0], image_size) + middle + _convolution(bottom, 2 * latent_channels, side)
    up = _convolution(latent_channels, bottom, side) + middle + _convolution(blocks[0], 3, image_size)
    if quantised:
        down += _convolution(2 * latent_channels, 2 * latent_channels, side, kernel=1)
        up += _convolution(latent_channels, latent_channels, side, kernel=1)
    for level, width in enumerate(blocks):
        here, last = image_size // 2**level, level == len(blocks) - 1
        before, above = blocks[max(level - 1, 0)], blocks[level if last else level + 1]
        inner = _resnet(width, width, here)
        down += _resnet(before, width, here) + (layers_per_block - 1) * inner
        up += _resnet(above, width, here) + layers_per_block * inner
        down += 0 if last else _convolution(width, width, here // 2)
        up += 0 if level == 0 else _convolution(width, width, 2 * here)
    linears, attention = 4 * side**2 * bottom**2, _attention(side**2, bottom)
    parts = {"encoder.convolutions": down, "decoder.convolutions": up}
    for half in ("encoder", "decoder"):
        parts |= {f"{half}.blocks": linears, f"{half}.attention": attention}
    return Work(parts)


def _convolution(channels_in: int, channels_out: int, side: int, kernel: int = 3) -> int:
    """To a square of `side` pixels."""
    return channels_in * channels_out * kernel**2 * side**2


def _resnet(channels_in: int, channels_out: int, side: int) -> int:
    shortcut = _convolution(channels_in, channels_out, side, kernel=1) if channels_in != channels_out else 0
    return _convolution(channels_in, channels_out, side) + _convolution(channels_out, channels_out, side) + shortcut


def encoding_work(codec: RAECodec | AlignTokCodec | VAECodec | PixelsCodec) -> Work:
    """The latent of one image; nothing for pixels."""
    if isinstance(codec, VAECodec):
        config: Any = codec.vae.config
        shape = (config.block_out_channels, config.layers_per_block, config.latent_channels, codec.image_size)
        return vae_work(*shape, quantised=config.use_quant_conv).under("encoder.")
    if isinstance(codec, PixelsCodec):
        return Work()
    work = encoder_work(codec.encoder)
    if isinstance(codec, AlignTokCodec):
        linears = (codec.adapter.fc1.weight, codec.adapter.fc2.weight)
        work["adapter"] = codec.grid[0] * codec.grid[1] * sum(weight.numel() for weight in linears)
    return work


def llm_work(config: "Qwen2Config", length: int, logits: int | None = None) -> Work:
    """One sequence of `length` tokens through a Qwen2, with the logits of so many of them (None: of all)."""
    width, mlp = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    linears = 2 * width * queries + 2 * width * keys + 3 * width * mlp
    return Work(
        blocks=config.num_hidden_layers * length * linears,
        attention=config.num_hidden_layers * _attention(length, queries),
        logits=(length if logits is None else logits) * width * config.vocab_size,
    )


def bridge_work(
    recipe: MLLMRecipe, width: int, feature_tokens: int, feature_channels: int, condition_channels: int
) -> Work:
    """What an MLLM adds to its language model of `width`: the `projector` of one image's features, and the `connector`
    of one sample's queries."""
    connector = width * condition_channels
    if recipe.connector == "mlp":
        connector += condition_channels**2
    return Work(projector=feature_tokens * (feature_channels * width + width**2), connector=recipe.queries * connector)
