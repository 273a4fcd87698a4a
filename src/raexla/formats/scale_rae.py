"""Scale-RAE's `config.json` (facts of ScaleRAEQwenForCausalLM) <-> our recipe of a text-to-image model.

Some of its keys are traps, and are not believed: `ddt_encoder_depth` is stored but unused unless `vision_loss` is
`ddt-loss`, `patch_size` is not the DiT's.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from raexla.data import ChatRecipe
from raexla.flow.time import TimeRecipe
from raexla.formats.own import read_own, write_own
from raexla.models.dit import DiTRecipe
from raexla.models.mllm import MLLMRecipe
from raexla.models.mllm.official import DIT_PREFIX, rope_theta
from raexla.recipe import UserError

if TYPE_CHECKING:
    from transformers import Qwen2Config

MODEL_TYPE = "cambrian_qwen"
QUERIES = "model.latent_queries"
_DIT = "diffusion_model_"
#: What the released code builds for each value of `vision_loss`.
_LOSSES = ("diffusion-loss", "ddt-loss")
#: Keys of a Qwen2 configuration as the official reader's version of transformers knows them.
_QWEN = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache",
    "tie_word_embeddings", "rope_theta", "use_sliding_window", "sliding_window", "max_window_layers",
    "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
_QWEN_NEEDED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
)  # fmt: skip


def tower(config: Mapping[str, Any]) -> str:
    """The encoder that the configuration names, by whatever name it had there."""
    towers = config.get("mm_vision_tower_aux_list") or [config.get("generation_alignment_tower") or "no encoder"]
    return str(towers[0])


def qwen_config(config: Mapping[str, Any]) -> "Qwen2Config":
    """The language model's part of the configuration.

    Raises:
        UserError: a key is missing that no tensor's shape tells.
    """
    from transformers import Qwen2Config

    _need(config, _QWEN_NEEDED)
    values = {key: config[key] for key in _QWEN if key in config}
    if not values.get("use_sliding_window"):  # transformers fills in a window's size otherwise
        values |= {"use_sliding_window": False, "sliding_window": None}
    made = Qwen2Config.from_dict(values)
    made.architectures = ["Qwen2ForCausalLM"]
    return made


def _need(config: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    if absent := [key for key in keys if key not in config]:
        raise UserError(f"config.json does not say {', '.join(absent)}, and the weights' shapes don't either")


def dit_recipe(config: Mapping[str, Any]) -> DiTRecipe:
    """The DiT that the released code builds from its configuration.

    Raises:
        UserError: a kind of model that the released code names but this project has not.
    """
    if (own := read_own(config, "dit", DiTRecipe)) is not None:
        return own
    _need(config, tuple(_DIT + key for key in ("hidden_size", "depth", "heads", "z_channels")))
    loss = config.get("vision_loss")
    if loss not in _LOSSES:
        raise UserError(f"config.json has vision_loss {loss!r}; the released models have {' or '.join(_LOSSES)}")
    if (mode := config.get("vision_loss_mode", "query")) != "query":
        raise UserError(f"config.json has vision_loss_mode {mode!r}; the released models have 'query'")
    width, depth, heads = (config[_DIT + key] for key in ("hidden_size", "depth", "heads"))
    z_channels = int(config[_DIT + "z_channels"] or 0)
    if z_channels <= 0:
        raise UserError(f"config.json has {_DIT}z_channels {z_channels}: a model without a connector is not supported")
    values: dict[str, Any] = {
        "condition_channels": z_channels,
        "condition_dropout": float(config.get("diffusion_class_dropout_prob") or 0.0),
        "conditioning": {"type": "per_token"},
        "outer_silu": True,
    }
    if isinstance(width, list):
        (width, wide), (depth, deep), (heads, many) = width, depth, heads
        values["head"] = {"wiring": "scale_rae", "width": wide, "depth": deep, "heads": many}
    elif loss == "ddt-loss":
        encoder = int(config.get("ddt_encoder_depth") or 0)
        if not 0 < encoder < depth:
            raise UserError(f"config.json has ddt_encoder_depth {encoder} of {depth} blocks: not a DDT")
        values["head"] = {"wiring": "classic", "width": width, "depth": depth - encoder, "heads": heads}
        depth = encoder
    return DiTRecipe.model_validate({**values, "width": width, "depth": depth, "heads": heads})


def dit_channels(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int | None:
    """Channels of the latent: from the configuration, else from the DiT's patch embedding."""
    if _DIT + "channels" in config:
        return int(config[_DIT + "channels"])
    key = DIT_PREFIX + "x_embedder.proj.weight"
    return int(tensors[key].shape[1]) if key in tensors else None


def llm_recipe(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str) -> MLLMRecipe:
    """Queries (their number stands in the file) and connector.

    Raises:
        UserError: another understanding projector than the released one.
    """
    if (kind := config.get("mm_projector_type", "mlp2x_gelu")) != "mlp2x_gelu":
        raise UserError(f"config.json has mm_projector_type {kind!r}; the released models have 'mlp2x_gelu'")
    queries = int(tensors[QUERIES].shape[0]) if QUERIES in tensors else int(config.get("si_token_len") or 256)
    return MLLMRecipe(path=path, queries=queries, connector="linear")


def chat_recipe(config: Mapping[str, Any], length: int | None) -> ChatRecipe:
    """The chat layout of the released models; `length` replaces the configuration's.

    Raises:
        UserError: neither says how long a sequence is.
    """
    if (own := read_own(config, "chat", ChatRecipe)) is not None:
        return own.model_copy(update={"length": length or own.length})
    found = length or config.get("tokenizer_model_max_length")
    if not found:
        raise UserError("config.json does not say tokenizer_model_max_length: say --length (512 or 1024 as released)")
    return ChatRecipe(length=int(found))


def time_recipe(config: Mapping[str, Any]) -> TimeRecipe:
    """Logit-normal times and the dimension shift, 4096 being the base where the configuration says none."""
    own = read_own(config, "flow", TimeRecipe)
    return own or TimeRecipe(base_dim=int(config.get("diffusion_base_dim") or 4096))


def released_config(
    known: Mapping[str, Any],
    qwen: "Qwen2Config",
    dit: DiTRecipe,
    flow: TimeRecipe,
    chat: ChatRecipe,
    *,
    encoder: str,
    channels: int,
    queries: int,
    statistics: str | None,
) -> dict[str, Any]:
    """The `config.json` that the official reader takes.

    Args:
        known: the configuration that the model was imported with, if it was: keys that no recipe of ours has are kept.

    Raises:
        UserError: a DiT or time shift that the released code has no words for.
    """
    if dit.patch_size != 1 or dit.qk_norm or not dit.outer_silu:
        raise UserError(
            "Scale-RAE's DiTs have patch size 1, no qk_norm and outer_silu: this one can't be written as one"
        )
    base_dim = _base_dim(flow, queries, channels)
    theta = rope_theta(qwen)
    language = {key: getattr(qwen, key) for key in _QWEN if key != "rope_theta" and hasattr(qwen, key)}
    head = dit.head
    wide = head is not None and head.wiring != "classic"
    sizes: dict[str, Any] = {"hidden_size": dit.width, "depth": dit.depth, "heads": dit.heads}
    if head is not None and wide:
        if head.wiring != "scale_rae":
            raise UserError(f"Scale-RAE has no DDT head wired as {head.wiring!r}: this DiT can't be written as one")
        sizes = {
            "hidden_size": [dit.width, head.width],
            "depth": [dit.depth, head.depth],
            "heads": [dit.heads, head.heads],
        }
    elif head is not None:
        sizes["depth"] = dit.depth + head.depth
    defaults = {
        "vision_coef": 2.0,
        "diffusion_split_per_token": queries,
        "diffusion_timesteps_per_sample": 1,
        "dit_cls": "DiT",
        "aux_regression": False,
        "patch_size": 2,
        "mm_use_im_start_end": True,
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
        "connector_only": False,
        "tokenizer_padding_side": "right",
        "mm_vision_tower_aux_list": [encoder],
        "ddt_encoder_depth": 2,
    }
    return {
        **defaults,
        **known,
        **language,
        "rope_theta": theta,
        "rope_scaling": None,
        "torch_dtype": "float32",
        "model_type": MODEL_TYPE,
        "architectures": ["ScaleRAEQwenForCausalLM"],
        "vision_loss": "diffusion-loss" if head is None else "ddt-loss",
        "vision_loss_mode": "query",
        **{_DIT + key: value for key, value in sizes.items()},
        _DIT + "channels": channels,
        _DIT + "z_channels": dit.condition_width,
        **({"ddt_encoder_depth": dit.depth} if head is not None and not wide else {}),
        "diffusion_class_dropout_prob": dit.condition_dropout,
        "diffusion_base_dim": None if base_dim == 4096 else base_dim,
        "diffusion_norm_stats_path": statistics,
        "mm_hidden_size": channels,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower_aux_token_len_list": [queries],
        "vision_tower_aux_token_len_list": [queries],
        "si_token_len": queries,
        "tokenizer_model_max_length": chat.length,
        **write_own(dit=dit, flow=flow, chat=chat),
    }


def _base_dim(flow: TimeRecipe, tokens: int, channels: int) -> int:
    """The base dimension that gives the recipe's shift, which may have been given by number."""
    if flow.shift is None:
        return flow.base_dim
    base = max(1, round(tokens * channels / flow.shift**2))
    if TimeRecipe(base_dim=base).factor(tokens, channels) != flow.shift:
        raise UserError(
            f"this model's time shift is {flow.shift:g}, given by number; Scale-RAE's configuration has only the base "
            f"dimension n of sqrt({tokens} x {channels} / n), and no whole n gives this shift"
        )
    return base
