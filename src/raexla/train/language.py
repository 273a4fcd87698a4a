"""The nano language model: a `Qwen2ForCausalLM` with a tokenizer of its own. Nano only: real ones come pretrained.

B: rows, L: sequence. Loss: cross-entropy of the answers, plus a little of every token (prompts are text worth
modelling), both means over the global batch's tokens.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from raexla.checkpoint import write_artifact
from raexla.data import (
    Chat,
    ChatRecipe,
    ChatTokenizer,
    Loader,
    Sample,
    SourceRecipe,
    SquashRecipe,
    chat_rows,
)
from raexla.data.chat import IGNORE, IMAGE_END, IMAGE_START, PAD, TURN_END, TURN_START
from raexla.data.collate import Chosen
from raexla.data.source import Source
from raexla.losses import cross_entropy_sum
from raexla.models.flops import llm_work
from raexla.models.mllm.model import causal_inputs
from raexla.models.pretrained import saved_files
from raexla.optim import OptimizerRecipe, Part
from raexla.recipe import Recipe
from raexla.runtime import Runtime
from raexla.train.base import StageRecipe
from raexla.train.task import Batch, Task, gradients, summed

_SPLIT = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


class TokenizerRecipe(Recipe):
    """A byte-level BPE trained on the texts of some shards."""

    vocabulary: Annotated[int, Field(ge=300)] = 640
    sources: tuple[SourceRecipe, ...]
    """Where the texts come from: captions and turns."""
    samples: Annotated[int, Field(ge=1)] = 6000
    """How many samples of each source are read."""


class LanguageModelRecipe(Recipe):
    """Sizes of the Qwen2; embeddings are tied."""

    width: Annotated[int, Field(ge=8)] = 128
    depth: Annotated[int, Field(ge=1)] = 3
    heads: Annotated[int, Field(ge=1)] = 4
    key_value_heads: Annotated[int, Field(ge=1)] = 2
    mlp: Annotated[int, Field(ge=8)] = 384
    tokenizer: TokenizerRecipe


class LanguageOptimRecipe(Recipe):
    """One optimiser."""

    language: OptimizerRecipe


class LanguageRecipe(StageRecipe):
    """The stage `language`."""

    stage: Literal["language"]
    model: LanguageModelRecipe
    chat: ChatRecipe
    prompt_weight: Annotated[float, Field(ge=0)] = 0.2
    """Weight of the cross-entropy of all tokens beside that of the answers."""
    optim: LanguageOptimRecipe


def texts(recipe: TokenizerRecipe) -> Iterator[str]:
    """Captions and turns of the first samples of each source."""
    for row in recipe.sources:
        source, left = Source(row), recipe.samples
        for shard, count in enumerate(source.shard_samples):
            for number in range(min(count, left)):
                sample: Sample = source.load(shard, number, seed=0, epoch=0)
                if sample.caption:
                    yield sample.caption
                yield from (turn.text for turn in sample.conversation)
            left -= min(count, left)


def make_tokenizer(recipe: TokenizerRecipe) -> Tokenizer:
    """Train the BPE; every word of a small vocabulary becomes one token."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, TURN_START, TURN_END, IMAGE_START, IMAGE_END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(recipe), trainer)
    return tokenizer


class LanguageTask(Task):
    """The stage `language`."""

    def __init__(self, recipe: LanguageRecipe, runtime: Runtime) -> None:
        from transformers import Qwen2Config, Qwen2ForCausalLM  # seconds to import

        super().__init__(recipe, runtime)
        self.recipe = recipe
        self.tokenizer = make_tokenizer(recipe.model.tokenizer)
        self.chat = Chat(recipe.chat, ChatTokenizer(Tokenizer.from_str(self.tokenizer.to_str())), 1)
        model = recipe.model
        config = Qwen2Config(
            vocab_size=self.tokenizer.get_vocab_size(),
            hidden_size=model.width,
            intermediate_size=model.mlp,
            num_hidden_layers=model.depth,
            num_attention_heads=model.heads,
            num_key_value_heads=model.key_value_heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=self.tokenizer.token_to_id(PAD),
            eos_token_id=self.tokenizer.token_to_id(TURN_END),
        )
        self.model: Any = Qwen2ForCausalLM(config)
        generator = torch.Generator().manual_seed(recipe.run.seed)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.02, generator=generator)
                else:
                    parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        self.body: Any = self.model.model
        runtime.place(self.body)
        self.own("", self.body)
        named = dict(self.body.named_parameters())
        self.parts = [Part("language", recipe.optim.language, named, runtime, self.steps, epoch_steps=self.epoch_steps)]

    def open_loader(self, cursor: Mapping[str, Any] | None) -> Loader:
        change, collate = chat_rows(self.chat, SquashRecipe(type="squash", size=8))
        words = Chosen(collate, ("tokens", "labels", "length"))
        return self.loader(change, words, cursor, {"conversation": "", "text": ""})

    def _everything(self, micro: Batch) -> Tensor:
        inside = torch.arange(micro["tokens"].shape[-1], device=micro["tokens"].device) < micro["length"][..., None]
        return torch.where(inside, micro["tokens"], torch.full_like(micro["tokens"], IGNORE))

    def train_step(self, phase: str, batch: Batch, controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        part, runtime = self.parts[0], self.runtime
        answers = runtime.sum_over_processes((batch["labels"][..., 1:] != IGNORE).sum().float()).clamp(min=1.0)
        every = runtime.sum_over_processes((self._everything(batch)[..., 1:] != IGNORE).sum().float()).clamp(min=1.0)
        total: list[Tensor] | None = None
        scalars: list[dict[str, Tensor]] = []
        for micro in self.micro_batches(batch):
            with runtime.autocast():
                embedded = self.body.embed_tokens(micro["tokens"])
                mask, positions = causal_inputs(embedded)
                output = self.body(inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False)
                logits = output.last_hidden_state @ self.body.embed_tokens.weight.T
                answer, _ = cross_entropy_sum(logits, micro["labels"])
                prompt, _ = cross_entropy_sum(logits, self._everything(micro))
            values = {"loss/answers": answer / answers, "loss/text": prompt / every}
            values["loss"] = values["loss/answers"] + self.recipe.prompt_weight * values["loss/text"]
            total = gradients(values["loss"], list(part.parameters.values()), total)
            scalars.append(values)
        assert total is not None
        return {**self.over_processes(summed(scalars)), **part.update(total, controls)}

    def export(self, path: Path, meta: Mapping[str, Any]) -> str:
        from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

        model: Any = Qwen2ForCausalLM(self.model.config)
        model.model.load_state_dict(
            {name: torch.from_numpy(self.runtime.to_host(value)) for name, value in self.body.state_dict().items()}
        )
        model.tie_weights()
        fast = PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, eos_token=TURN_END, pad_token=PAD)
        files = saved_files(model, fast)
        return write_artifact(path, "language", {}, {"vocabulary": self.tokenizer.get_vocab_size()}, meta, files)

    def flops_per_step(self) -> float:
        return 6.0 * self.batch_images * llm_work(self.body.config, self.recipe.chat.length).total
