"""What a recipe can say about the language model and what is attached to it."""

from typing import Literal

from pydantic import Field

from raexla.recipe import Recipe


class MLLMRecipe(Recipe):
    """A Qwen2 language model with queries, an understanding projector and a connector to the diffusion model."""

    path: str
    """Hugging Face folder or hub name of a `Qwen2ForCausalLM` with its tokenizer."""
    queries: int = Field(default=256, gt=0)
    """Number of learned queries: one for each token (patch) of the diffusion model."""
    connector: Literal["linear", "mlp"] = "linear"
    """From query hidden states to the condition: one linear (as released), or linear, GELU, linear (000, sec. 3.1)."""
