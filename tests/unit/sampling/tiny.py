"""Whole models of the production classes, random and tiny, saved as artifacts: text- and class-conditional."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from raexla.checkpoint import write_artifact
from raexla.data import ChatRecipe
from raexla.flow.time import TimeRecipe
from raexla.models.codecs import RAECodecRecipe
from raexla.models.decoder import DecoderRecipe, ViTDecoder
from raexla.models.dit import DiTRecipe, LightningDiT, init_weights
from raexla.models.dit.recipe import ClassConditioning
from raexla.models.encoders import Siglip2Recipe
from raexla.models.mllm import MLLMRecipe
from raexla.recipe import ArtifactReference
from raexla.sampling.classes import CLASS_DESCRIPTION, ClassToImageRecipe
from raexla.sampling.codec import encoder_identity
from raexla.sampling.model import TextToImageRecipe, UnifiedRecipe, assemble, describe

DECODER = DecoderRecipe(width=32, depth=1, heads=4, mlp=48, patch_size=8)


def save_encoder(folder: Path) -> str:
    """A SigLIP encoder: 32 pixels, patch 8, 16 tokens of 24 channels."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    return str(folder)


def save_language(folder: Path) -> str:
    """A Qwen2 with a byte-level tokenizer that reads any text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet + special)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.save_pretrained(folder)
    torch.manual_seed(2)
    config = Qwen2Config(
        vocab_size=len(alphabet) + len(special),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data = torch.randn_like(parameter) * 0.15
    model.save_pretrained(folder)
    return str(folder)


def save_decoder(folder: Path, encoder: str) -> str:
    """A decoder artifact for `save_encoder`'s latent, sharp enough that two latents give two pictures."""
    torch.manual_seed(3)
    decoder = ViTDecoder(DECODER, (4, 4), 24, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for parameter in decoder.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    facts = {"encoder": encoder_identity(encoder), "grid": [4, 4], "channels": 24, "statistics": None}
    facts["decoder"] = DECODER.model_dump(mode="json")
    weights = {name: value.detach().numpy() for name, value in decoder.state_dict().items()}
    write_artifact(folder, "decoder", weights, facts, {})
    return str(folder)


def save_model(
    root: Path,
    *,
    length: int = 160,
    dropout: float = 0.1,
    seed: int = 4,
    system: str = "",
    queries: int = 16,
    dit: dict[str, Any] | None = None,
) -> Path:
    """`root/{encoder,language,decoder,model}`; returns the model's folder. `dit` replaces parts of its recipe."""
    sizes = {"width": 32, "depth": 2, "heads": 2, "condition_dropout": dropout} | (dit or {})
    encoder = save_encoder(root / "encoder")
    recipe = TextToImageRecipe(
        codec=RAECodecRecipe(
            type="rae",
            encoder=Siglip2Recipe(type="siglip2", path=encoder),
            weights=ArtifactReference(path=save_decoder(root / "decoder", encoder)),
        ),
        model=UnifiedRecipe(
            llm=MLLMRecipe(path=save_language(root / "language"), queries=queries),
            dit=DiTRecipe.model_validate(sizes),
        ),
        chat=ChatRecipe(length=length, system=system),
        flow=TimeRecipe(shift=2.0),
    )
    model = assemble(recipe, seed=0)
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Any] = {}
    for name, value in model.unified.state_dict().items():
        fresh = name.startswith(("dit.", "mllm.connector", "mllm.projector"))
        state[name] = torch.randn(value.shape, generator=generator) * 0.2 if fresh else value
    weights = {name: value.detach().numpy() for name, value in state.items()}
    write_artifact(root / "model", "model", weights, model.facts(), {"step": 7}, describe(model))
    return root / "model"


def save_class_model(root: Path, *, classes: int = 5, seed: int = 4, **changes: Any) -> Path:
    """`root/{encoder,decoder,classes}`: a class-conditional DiT on the same codec; returns the model's folder."""
    encoder = save_encoder(root / "encoder")
    codec = RAECodecRecipe(
        type="rae",
        encoder=Siglip2Recipe(type="siglip2", path=encoder),
        weights=ArtifactReference(path=save_decoder(root / "decoder", encoder)),
    )
    dit = DiTRecipe(width=32, depth=2, heads=2, conditioning=ClassConditioning(num_classes=classes), **changes)
    recipe = ClassToImageRecipe(dit=dit, codec=codec, flow=TimeRecipe(shift=2.0), num_classes=classes)
    model = LightningDiT(dit, (4, 4), 24)
    init_weights(model, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: value.numpy() if name == "t_embedder.W" else (torch.randn(value.shape, generator=generator) * 0.2).numpy()
        for name, value in model.state_dict().items()
    }
    facts = {"encoder": encoder_identity(encoder), "grid": [4, 4], "channels": 24, "statistics": None, "shift": 2.0}
    extra = {CLASS_DESCRIPTION: recipe.model_dump_json().encode()}
    write_artifact(root / "classes", "dit", weights, facts, {}, extra)
    return root / "classes"
