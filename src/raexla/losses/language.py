"""Next-token cross-entropy as a sum and a count, for a mean over all processes and accumulated parts."""

from torch import Tensor
from torch.nn import functional as F

IGNORE = -100


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and the number of tokens that count.

    Args:
        logits: [B, L, V]; position i predicts the token of position i + 1.
        labels: int [B, L], the token ids at their own positions, `IGNORE` (-100) where nothing is to be learned. The
            shift by one happens here: labels[:, 0] is never a target, the last logits predict nothing.

    Returns:
        (sum, count), both float32 scalars; the mean over the global batch is sum of sums / sum of counts (facts A7).
    """
    logits, targets = logits[:, :-1].float(), labels[:, 1:]
    kept = targets != IGNORE
    losses = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.clamp_min(0).reshape(-1).long(), reduction="none"
    )
    return (losses * kept.reshape(-1)).sum(), kept.sum().float()
