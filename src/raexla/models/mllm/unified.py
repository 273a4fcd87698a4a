"""The unified model: the language model and the diffusion model that it conditions (000, fig. 1).

It offers the three things that losses and samplers need (hidden states, condition, velocity) and computes no loss.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from raexla.models.dit import LightningDiT
from raexla.models.mllm.model import MLLM
from raexla.nn.rows import join_rows, part_rows
from raexla.recipe import UserError


class Input(NamedTuple):
    """Sequences, and what stands at their image slots; see `MLLM.embed`."""

    tokens: Tensor
    image_slot: Tensor
    features: Tensor | None = None
    use_queries: bool = False


class UnifiedModel(nn.Module):
    """MLLM plus LightningDiT, trained by two optimisers: `mllm.*` and `dit.*` are the two groups.

    Raises:
        UserError: the number of queries is not the number of tokens that the DiT conditions.
    """

    def __init__(self, mllm: MLLM, dit: LightningDiT) -> None:
        super().__init__()
        self.mllm = mllm
        self.dit = dit
        if mllm.recipe.queries != dit.condition_tokens:
            raise UserError(
                f"the language model has {mllm.recipe.queries} queries, but the DiT conditions {dit.condition_tokens} "
                f"tokens ({dit.grid[0]} x {dit.grid[1]} latent tokens, patch {dit.recipe.patch_size}): "
                f"set queries: {dit.condition_tokens}"
            )

    def hidden(
        self,
        tokens: Tensor,
        image_slot: Tensor | None = None,
        features: Tensor | None = None,
        use_queries: bool = False,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, L, h]; see `MLLM.forward`."""
        return self.mllm(tokens, image_slot, features, use_queries, valid)

    def read(self, inputs: Sequence[Input], shards: int = 1) -> list[Tensor]:
        """Hidden states [B_i, L_i, h] of several batches of sequences with no padding but on the right.

        Those of one length go through the language model together, so that its weights are gathered and its gradients
        reduced once.

        Args:
            shards: parts that each batch's rows are split into over devices.
        """
        if len({batch.tokens.shape[1] for batch in inputs}) > 1:
            return [self.hidden(*batch) for batch in inputs]
        filled = [self.mllm.fill(batch.image_slot, batch.features, batch.use_queries) for batch in inputs]
        dtype = self.mllm.llm.embed_tokens.weight.dtype
        embedded = self.mllm.embed(
            join_rows([batch.tokens for batch in inputs], shards),
            join_rows([batch.image_slot for batch in inputs], shards),
            filled=join_rows([part.to(dtype) for part in filled], shards),
        )
        return part_rows(self.mllm.read(embedded), [len(batch.tokens) for batch in inputs], shards)

    def condition(self, hidden: Tensor, query_start: Tensor) -> Tensor:
        """The condition [B, Q, Z]; see `MLLM.condition`."""
        return self.mllm.condition(hidden, query_start)

    def prompt_condition(self, tokens: Tensor, image_slot: Tensor, query_start: Tensor) -> Tensor:
        """The condition [B, Q, Z] of whole sequences whose image slots are the queries."""
        return self.condition(self.hidden(tokens, image_slot, use_queries=True), query_start)

    def velocity(self, x: Tensor, t: Tensor, condition: Tensor, drop: Tensor | None = None) -> Tensor:
        """The DiT's velocity [B, N, C]; see `LightningDiT.forward`."""
        return self.dit(x, t, condition, drop)
