"""The numbers of a text-to-image recipe, pretraining or finetuning, in closed form."""

from typing import Any

from raexla.losses import chunks_of
from raexla.models.dit import DiTRecipe
from raexla.models.dit.model import check_patches, check_width
from raexla.models.flops import bridge_work, dit_work, llm_work
from raexla.nn.swiglu import swiglu_width
from raexla.plan.blocks import kept_of, repeated
from raexla.plan.counts import Counts, Part
from raexla.plan.latent import Latent, read_latent, read_tokens
from raexla.plan.model import model_of
from raexla.plan.sizes import dit_parameters, language_parameters, read_sizes
from raexla.runtime import RuntimeRecipe
from raexla.train.finetune import FinetuneRecipe
from raexla.train.latents.training import latent_groups
from raexla.train.pretrain import GENERATION, UNDERSTANDING, PretrainRecipe

UnifiedStage = PretrainRecipe | FinetuneRecipe


def shares(recipe: UnifiedStage) -> tuple[float, float]:
    """Samples of a global step with a target image, and without one."""
    total = sum(source.weight for source in recipe.data.sources)
    drawn = sum(s.weight for s in recipe.data.sources if (s.group or s.kind) in ("caption", GENERATION))
    images = recipe.train.global_batch_images * drawn / total
    return images, recipe.train.global_batch_images - images


def count_unified(recipe: UnifiedStage) -> Counts:
    """The numbers of a recipe of the stage pretrain or finetune.

    Raises:
        UserError: a network whose configuration is not known, a model that is neither there nor described.
    """
    model = model_of(recipe)
    llm = read_sizes(model.model.llm.path)
    latent = read_latent(model.codec, recipe.transform.size)
    dit = model.model.dit
    check_width(dit, latent.channels)
    check_patches(dit, latent.grid)
    patches = latent.tokens // dit.patch_size**2
    width, condition = llm.hidden_size, dit.condition_width
    towers = model.understanding is not None
    reader = read_tokens(model.understanding, recipe.transform.size) if model.understanding is not None else latent
    bridge = bridge_work(model.model.llm, width, reader.tokens, reader.channels, condition)
    images, asked = shares(recipe)
    ready = latent_groups(recipe.data.sources, latent.grid, latent.channels)
    seen, read = images * (GENERATION not in ready), asked * (UNDERSTANDING not in ready)
    rows, times = recipe.train.global_batch_images, recipe.times_per_image
    learned = recipe.optim.llm is not None
    most = recipe.losses.learned(model.chat)
    lengths = model.chat.length, model.chat.conversation_length or model.chat.length
    prompts, answers = llm_work(llm, lengths[0], most), llm_work(llm, lengths[1])
    reading = images * prompts.total + asked * (answers.total + bridge["projector"])
    drawn = dit_work(dit, latent.grid, latent.channels)
    drawing = images * (times * drawn.total + bridge["connector"])
    attached = model.model.llm.queries * width + reader.channels * width + width**2 + 2 * width
    connector = width * condition + condition
    connector += condition * (condition + 1) if model.model.llm.connector == "mlp" else 0
    parts = (
        Part(
            "language model",
            sum(language_parameters(llm).values()) + attached,
            learned,
            recipe.optim.llm is not None and recipe.optim.llm.ema is not None,
            2.0 * reading * (3 if learned else 1),
            repeated_flops=repeated(recipe.runtime, (images, lengths[0], prompts), (asked, lengths[1], answers))
            if learned
            else 0.0,
        ),
        Part(
            "DiT",
            dit_parameters(dit, latent.channels) + connector,
            True,
            recipe.optim.dit.ema is not None,
            6.0 * drawing,
            repeated_flops=repeated(recipe.runtime, (images * times, patches, drawn)),
        ),
        _frozen("encoder", latent, seen if towers else seen + read),
        *([_frozen("reading encoder", reader, read)] if towers else []),
    )
    kept = {"DiT": images * times * _dit_bytes(dit, patches, recipe.runtime) / rows}
    if learned:
        tokens = [
            many * _llm_bytes(llm, length, recipe.runtime)
            for many, length in zip((images, asked), lengths, strict=True)
        ]
        chunks = recipe.losses.language_chunks
        logits = images * most / chunks_of(chunks, lengths[0], most) + asked * lengths[1] / chunks
        kept = {"language model": sum(tokens) / rows, "logits": logits * llm.vocab_size * 10.0 / rows, **kept}
    sequences = images * lengths[0] + asked * lengths[1]
    ways = _ways(dit)
    stream = 2.0 * images * times * patches * sum(depth * width for width, depth, _ in ways)
    stream += 2.0 * llm.num_hidden_layers * width * sequences
    heads = (llm.num_attention_heads, llm.num_key_value_heads, *(heads for _, _, heads in ways))
    return Counts(parts, rows, recipe.train.total_steps, kept, stream_bytes_per_image=stream / rows, heads=heads)


def _frozen(name: str, latent: Latent, images: float) -> Part:
    return Part(name, latent.parameters, False, False, 2.0 * images * latent.work.total, split=False)


def _llm_bytes(config: Any, length: int, runtime: RuntimeRecipe) -> float:
    """Bytes that the blocks' backward pass reads for one sequence; the blocks' inputs are float32."""
    width, mlp = config.hidden_size, config.intermediate_size
    keys = width * config.num_key_value_heads // config.num_attention_heads
    read = 2 * (6 * width + 2 * (width + keys) + 4 * mlp)
    linears = 2 * (width + 2 * keys + 2 * width + 2 * mlp)
    return kept_of(config.num_hidden_layers, length, config.num_attention_heads, read, linears, 4 * width, runtime)


def _dit_bytes(recipe: DiTRecipe, tokens: int, runtime: RuntimeRecipe) -> float:
    """The same for all tokens of one noisy latent; a DiT's blocks have bf16 inputs."""
    total = 0.0
    for width, depth, heads in _ways(recipe):
        mlp = swiglu_width(width)
        read, linears = 2 * (16 * width + 4 * mlp), 2 * (12 * width + 2 * mlp)
        total += kept_of(depth, tokens, heads, read, linears, 2 * width, runtime)
    return total


def _ways(recipe: DiTRecipe) -> list[tuple[int, int, int]]:
    """Width, depth and heads of a DiT's trunk and, if it has one, its head."""
    trunk = (recipe.width, recipe.depth, recipe.heads)
    return [trunk] if recipe.head is None else [trunk, (recipe.head.width, recipe.head.depth, recipe.head.heads)]
