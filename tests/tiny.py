"""A tiny family of the production classes, written as real folders: encoder, language model with tokenizer, shards.

Used by tests of stages, sampling and the command line; `tiny` in conftest.py hands this module out.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast, SiglipVisionConfig, SiglipVisionModel

from raexla.data.nano.samples import Split, samples
from raexla.data.shards import ShardWriter

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<im_start>", "<im_end>"]


def encoder(folder: Path, seed: int = 0) -> Path:
    """A `SiglipVisionModel` of 16 tokens x 24 channels on 32 pixels."""
    torch.manual_seed(seed)
    config = SiglipVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    config.vision_use_head = False
    SiglipVisionModel(config).save_pretrained(folder)
    return folder


def language(folder: Path, seed: int = 0) -> Path:
    """A `Qwen2ForCausalLM` 32 wide, 2 deep, with a byte-level BPE of the nano world's captions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [caption for sample in samples("pretrain", 200) for caption in sample.captions]
    texts += [text for sample in samples("understanding", 200) for turn in sample.conversation for text in turn]
    tokenizer.train_from_iterator(texts, trainer)
    fast = Qwen2TokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def png(image: Any) -> bytes:
    """PNG bytes of uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def shards(folder: Path, split: Split, count: int, per_shard: int = 32) -> Path:
    """`count` samples of a nano split as WebDataset shards with an index."""
    with ShardWriter(str(folder), samples_per_shard=per_shard) as writer:
        for sample in samples(split, count):
            members: dict[str, bytes] = {}
            if sample.image is not None:
                members["png"] = png(sample.image)
            meta: dict[str, Any] = {}
            if sample.captions:
                meta["captions"] = list(sample.captions)
            if sample.conversation:
                turns = []
                for number, (question, answer) in enumerate(sample.conversation):
                    mark = "<image>\n" if number == 0 and sample.image is not None else ""
                    turns += [{"from": "human", "value": mark + question}, {"from": "gpt", "value": answer}]
                meta["conversations"] = turns
            members["json"] = json.dumps(meta).encode()
            writer.write(sample.key, members)
    return folder


def world(root: Path) -> dict[str, str]:
    """Everything that a tiny text-to-image run needs; paths by name."""
    made = {"encoder": encoder(root / "encoder"), "language": language(root / "language")}
    for name, split in (("captions", "pretrain"), ("conversations", "understanding"), ("pictures", "decoder")):
        made[name] = shards(root / name, split, 96)  # type: ignore[arg-type]
    return {name: str(path) for name, path in made.items()}


def pretrain_recipe(made: dict[str, str], run: str, **changes: Any) -> dict[str, Any]:
    """A `pretrain` recipe on the tiny world as plain values; `changes` replace top-level keys."""
    return {
        "stage": "pretrain",
        "run": {"dir": run, "seed": 3},
        "runtime": {"type": "eager", "device": "cpu"},
        "codec": {"type": "rae", "encoder": {"type": "siglip2", "path": made["encoder"]}},
        "model": {
            "llm": {"path": made["language"], "queries": 16},
            "dit": {"width": 32, "depth": 2, "heads": 2, "condition_channels": 32},
        },
        "chat": {"length": 128, "system": "", "answer_prefix": ""},
        "flow": {"shift": 2.0},
        "transform": {"type": "squash", "size": 32},
        "data": {
            "sources": [
                {"name": "captions", "path": made["captions"], "kind": "caption", "weight": 2},
                {"name": "questions", "path": made["conversations"], "kind": "conversation", "weight": 1},
            ],
            "order": {"streams": 4},
        },
        "optim": {"llm": {"lr": 1e-3, "clip": 1.0}, "dit": {"lr": 2e-3, "clip": 1.0, "ema": 0.9}},
        "train": {"steps": 6, "global_batch_images": 24},
        "obs": {"log_every_steps": 1, "tensorboard": False},
        **changes,
    }
