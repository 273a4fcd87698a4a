"""The two sides of the adversarial loss, on critic logits of any shape.

`hinge` and `vanilla` follow taming-transformers as both official repositories do: their "vanilla" generator side is
-mean(logits) as well, which this project calls `hinge`. Here each name means the pair that the literature means by it.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

AdversarialKind = Literal["hinge", "vanilla", "non_saturating"]


def critic_loss(real: Tensor, fake: Tensor, kind: AdversarialKind = "hinge") -> Tensor:
    """What the critic minimises; a scalar.

    hinge: (mean relu(1 - real) + mean relu(1 + fake)) / 2.
    vanilla, non_saturating: (mean softplus(-real) + mean softplus(fake)) / 2, the cross-entropy of Goodfellow et al.
    """
    if kind == "hinge":
        return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake: Tensor, kind: AdversarialKind = "hinge") -> Tensor:
    """What the generator minimises; a scalar.

    hinge: -mean(fake) (what the released code runs). vanilla: the saturating -mean softplus(fake), i.e.
    mean log(1 - D). non_saturating: mean softplus(-fake), i.e. -mean log D.
    """
    if kind == "hinge":
        return -fake.mean()
    if kind == "vanilla":
        return -F.softplus(fake).mean()
    return F.softplus(-fake).mean()
