"""What the sampler needs of a latent diffusion model, whatever conditions it: prompts or classes.

B: batch, N: latent tokens, C: latent channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn
from torch.func import functional_call

from raexla.models.dit import DiTRecipe
from raexla.runtime import Runtime
from raexla.runtime.sharding import Table
from raexla.sampling.codec import OpenCodec


class WithWeights(nn.Module):
    """Calls a module's methods with other weights than its own (a moving average), without touching it."""

    def __init__(self, module: nn.Module, weights: Mapping[str, Tensor] | None) -> None:
        super().__init__()
        self.module = module
        self._weights = {f"module.{name}": value for name, value in (weights or {}).items()}

    def forward(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Used by `call`."""
        return getattr(self.module, method)(*args, **kwargs)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """`module.method(*args)` with the given weights."""
        if not self._weights:
            return self(method, *args, **kwargs)
        return functional_call(self, self._weights, (method, *args), kwargs)


@dataclass(frozen=True, kw_only=True)
class ImageModel(ABC):
    """A network that predicts velocities, its codec and its time shift; on the CPU, or placed on a runtime's devices.

    A *request* is what one picture is asked for by: a prompt, or a class. `inputs` makes arrays of requests,
    `condition` makes of these, on the devices, what `velocity` takes.
    """

    asked_for_by: ClassVar[str]
    """What a request is called: `prompt` or `class`."""

    opened: OpenCodec
    shift: float
    """The factor a of the dimension-dependent time shift (000, section 3.2)."""
    source: Path | None = None
    """The artifact it came from."""
    digest: str = ""

    @property
    def codec(self) -> Any:
        """The codec (see `raexla.models.codecs.Codec`)."""
        return self.opened.codec

    def facts(self) -> dict[str, Any]:
        """What an artifact of this model was made for."""
        return {**self.opened.facts, "shift": self.shift}

    def place(self, runtime: Runtime) -> None:
        """Move the network (by its table) and the frozen codec (whole) to the devices."""
        runtime.place(self.network, self.table())
        runtime.place(self.opened.codec)

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """Everything that is trained; `weights` of the sampler have the names of its `state_dict`."""

    @property
    @abstractmethod
    def dit(self) -> DiTRecipe:
        """What the diffusion transformer was built from."""

    @abstractmethod
    def table(self) -> Table:
        """Sharding table of `network`."""

    @abstractmethod
    def inputs(self, requests: Sequence[Any]) -> dict[str, np.ndarray]:
        """Arrays [n, ...] of n requests.

        Raises:
            UserError: a request that this model can't take.
        """

    @abstractmethod
    def condition(self, network: WithWeights, inputs: Mapping[str, Tensor]) -> Tensor:
        """What `velocity` takes, [B, ...], of the tensors of `inputs`. No gradient is kept."""

    @abstractmethod
    def velocity(
        self, network: WithWeights, x: Tensor, t: Tensor, condition: Tensor, drop: Tensor | None = None
    ) -> Tensor:
        """Velocity [B, N, C], float32, of noisy latents x [B, N, C] at times t [B]; `drop` bool [B] as in the DiT."""

    @abstractmethod
    def caption(self, request: Any) -> str:
        """How a request is called below its picture."""
