"""The language model with queries, projector and connector.

B: batch, L: sequence, h: the language model's width, Q: queries, N: feature tokens, C: feature channels, Z: condition
channels, V: vocabulary rows.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.models.attention import use_kernels
from raexla.models.mllm.recipe import MLLMRecipe
from raexla.nn.rows import pick_tokens
from raexla.nn.stack import Stacked
from raexla.nn.tables import TableModule

if TYPE_CHECKING:
    from transformers import Qwen2Config


class MLLM(Stacked, TableModule):
    """A Qwen2 that reads image features and whose queries condition a diffusion model.

    Args:
        config: the language model's configuration; its `vocab_size` counts embedding rows, added tokens included.
        recipe: queries and connector.
        feature_channels: C of the encoder that the projector reads.
        condition_channels: Z of the diffusion model.

    Attributes:
        llm: `Qwen2Model`; each layer's `self_attn.kernel` may be swapped by a runtime.
        lm_head: the output linear, None if the embedding table is used for output too (tied).
        queries: [Q, h]. projector, connector: see `MLLMRecipe`.
    """

    def __init__(
        self, config: "Qwen2Config", recipe: MLLMRecipe, feature_channels: int, condition_channels: int
    ) -> None:
        from transformers import Qwen2Model  # seconds to import, and recipes need only this package's types

        super().__init__()
        width = config.hidden_size
        self.config, self.recipe = config, recipe
        self.width = width
        self.llm = Qwen2Model(config)
        use_kernels(self.llm)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(width, config.vocab_size, bias=False)
        self.queries = nn.Parameter(torch.empty(recipe.queries, width))
        self.projector = _mlp(feature_channels, width)
        linear = recipe.connector == "linear"
        self.connector = nn.Linear(width, condition_channels) if linear else _mlp(width, condition_channels)

    def reset_tables(self) -> None:
        """Fill the rotary frequencies, which are not saved."""
        from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

        rotary = Qwen2RotaryEmbedding(config=self.config)
        for name, buffer in rotary.named_buffers():
            self.llm.rotary_emb.get_buffer(name).copy_(buffer)

    def embed(
        self,
        tokens: Tensor,
        image_slot: Tensor | None = None,
        features: Tensor | None = None,
        use_queries: bool = False,
        filled: Tensor | None = None,
    ) -> Tensor:
        """Input embeddings [B, L, h].

        Args:
            tokens: int [B, L]; whatever id stands at an image slot is not looked at.
            image_slot: int [B, L], -1 for text, else the number of the query or feature token that stands there.
            features: encoder tokens [B, N, C] for the projector.
            use_queries: the slots are the learned queries; `features` must be None then.
            filled: what `fill` made of the last two, instead of them.
        """
        embedded = F.embedding(tokens, self.llm.embed_tokens.weight)
        if image_slot is None:
            return embedded
        if filled is None:
            filled = self.fill(image_slot, features, use_queries)
        return torch.where((image_slot >= 0)[:, :, None], filled.to(embedded.dtype), embedded)

    def fill(self, image_slot: Tensor, features: Tensor | None = None, use_queries: bool = False) -> Tensor:
        """What stands at image slots [B, L, h] (anything elsewhere); see `embed`."""
        slot = image_slot.clamp_min(0).long()
        if use_queries:
            if features is not None:
                raise ValueError("image slots are either queries or features, not both")
            return F.embedding(slot, self.queries)
        if features is None:
            raise ValueError("image slots need features or use_queries")
        return pick_tokens(self.projector(features), slot)

    def forward(
        self,
        tokens: Tensor,
        image_slot: Tensor | None = None,
        features: Tensor | None = None,
        use_queries: bool = False,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states [B, L, h] (after the last norm) of causal attention over the embedded sequence.

        Args:
            tokens, image_slot, features, use_queries: see `embed`.
            valid: bool [B, L], which tokens are no padding. Not needed for padding on the right, which no token
                before it can see; needed for padding on the left.
        """
        return self.read(self.embed(tokens, image_slot, features, use_queries), valid)

    def read(self, embedded: Tensor, valid: Tensor | None = None) -> Tensor:
        """`forward` from the embeddings [B, L, h] on."""
        mask, positions = causal_inputs(embedded, valid)
        return self.hidden(embedded, None if valid is None else mask, positions)

    def hidden(self, embedded: Tensor, mask: Tensor | None, positions: Tensor, cache: Any = None) -> Tensor:
        """Final hidden states of embeddings [B, L, h].

        Args:
            embedded: [B, L, h].
            mask: bool [B or 1, 1, L, S], True where a token may look; every row has at least one True. None is causal
                attention by the layers' kernels, without a cache only.
            positions: int [B or 1, L].
            cache: an object with `update(keys, values, layer)`, see `raexla.models.mllm.decode`.
        """
        if cache is None:
            fixed = {
                "attention_mask": mask,
                "position_ids": positions,
                "position_embeddings": self.llm.rotary_emb(embedded, positions),
            }
            return self.llm.norm(self.runner(list(self.llm.layers), embedded, (), fixed))
        output = self.llm(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state

    def condition(self, hidden: Tensor, query_start: Tensor) -> Tensor:
        """The condition [B, Q, Z]: hidden states at the query positions themselves, through the connector (facts A2).

        Args:
            hidden: [B, L, h].
            query_start: int [B], position of the first of the Q consecutive queries.
        """
        positions = query_start.long()[:, None] + torch.arange(self.recipe.queries, device=hidden.device)
        return self.connector(pick_tokens(hidden, positions))

    @property
    def output_table(self) -> Tensor:
        """[V, h], whose products with hidden states are the logits; the embedding table where they are tied."""
        return self.llm.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [..., V] of hidden states [..., h]."""
        return F.linear(hidden, self.output_table)


def causal_inputs(embedded: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The explicit mask [B or 1, 1, L, L] and positions [B or 1, L] that `MLLM.hidden` wants.

    Positions count the tokens that are no padding, so that padding on either side changes nothing. A padding token
    looks at itself, which keeps its softmax finite.
    """
    length = embedded.shape[1]
    index = torch.arange(length, device=embedded.device)
    causal = (index[None, :] <= index[:, None])[None, None]
    if valid is None:
        return causal, index[None]
    own = (index[None, :] == index[:, None])[None, None]
    positions = (torch.cumsum(valid.long(), dim=1) - 1).clamp_min(0)
    return (causal & valid[:, None, None, :]) | own, positions


def init_weights(mllm: MLLM, generator: torch.Generator | None = None) -> None:
    """Initialise what the language model's folder doesn't hold: queries N(0, 1/h) (facts A1), linears by PyTorch's law.

    CPU tensors only. The language model itself is left as it is.
    """
    nn.init.normal_(mllm.queries, std=1.0 / math.sqrt(mllm.width), generator=generator)
    for part in (mllm.projector, mllm.connector):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                bound = 1.0 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def _mlp(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels_in, channels_out), nn.GELU(), nn.Linear(channels_out, channels_out))
