"""A whole text-to-image model of the production classes, random and tiny, saved as artifacts."""

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
from raexla.models.dit import DiTRecipe
from raexla.models.encoders import Siglip2Recipe
from raexla.models.mllm import MLLMRecipe
from raexla.recipe import ArtifactReference
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


def save_model(root: Path, *, length: int = 160, dropout: float = 0.1) -> Path:
    """`root/{encoder,language,decoder,model}`; returns the model's folder."""
    encoder = save_encoder(root / "encoder")
    recipe = TextToImageRecipe(
        codec=RAECodecRecipe(
            type="rae",
            encoder=Siglip2Recipe(type="siglip2", path=encoder),
            weights=ArtifactReference(path=save_decoder(root / "decoder", encoder)),
        ),
        model=UnifiedRecipe(
            llm=MLLMRecipe(path=save_language(root / "language"), queries=16),
            dit=DiTRecipe(type="lightning", width=32, depth=2, heads=2, condition_dropout=dropout),
        ),
        chat=ChatRecipe(length=length, system=""),
        flow=TimeRecipe(shift=2.0),
    )
    model = assemble(recipe, seed=0)
    generator = torch.Generator().manual_seed(4)
    state: dict[str, Any] = {}
    for name, value in model.unified.state_dict().items():
        fresh = name.startswith(("dit.", "mllm.connector", "mllm.projector"))
        state[name] = torch.randn(value.shape, generator=generator) * 0.2 if fresh else value
    weights = {name: value.detach().numpy() for name, value in state.items()}
    write_artifact(root / "model", "model", weights, model.facts(), {"step": 7}, describe(model))
    return root / "model"
