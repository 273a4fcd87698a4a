"""Conditions and their null, by which dropped conditions are replaced (classifier-free guidance)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.recipe import UserError


def _no_null() -> UserError:
    return UserError("this DiT was built with condition_dropout 0: it has no null condition to drop to or guide from")


class TokenCondition(nn.Module):
    """Passes on a condition for each token; a dropped sample gets the learned `dropout_embedding` [Z] everywhere."""

    dropout_embedding: nn.Parameter | None

    def __init__(self, channels: int, *, null: bool) -> None:
        super().__init__()
        self.dropout_embedding = nn.Parameter(torch.zeros(channels)) if null else None

    def forward(self, condition: Tensor, drop: Tensor | None) -> Tensor:
        """condition [B, N, Z], drop bool [B] -> [B, N, Z]."""
        if drop is None:
            return condition
        if self.dropout_embedding is None:
            raise _no_null()
        return torch.where(drop[:, None, None], self.dropout_embedding.to(condition.dtype), condition)


class ClassCondition(nn.Module):
    """Embeds labels; the row after the last class is the null class."""

    def __init__(self, num_classes: int, channels: int, *, null: bool) -> None:
        super().__init__()
        self.num_classes, self.null = num_classes, null
        self.embedding_table = nn.Embedding(num_classes + int(null), channels)

    def forward(self, label: Tensor, drop: Tensor | None) -> Tensor:
        """label int [B], drop bool [B] -> [B, 1, Z]."""
        if drop is not None:
            if not self.null:
                raise _no_null()
            label = torch.where(drop, torch.full_like(label, self.num_classes), label)
        return F.embedding(label, self.embedding_table.weight)[:, None]
