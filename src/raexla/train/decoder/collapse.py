"""A watch over the critic: a GAN whose critic wins for good, or gives up, is stopped or goes on without it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raexla.recipe import Recipe, UserError
from raexla.train.guards import GuardsRecipe

Share = Annotated[float, Field(ge=0, le=1)]


class CriticAccuracyRecipe(Recipe):
    """What to do when the critic's accuracy leaves its range and stays outside.

    0.5 is a critic that guesses, 1 one that is always right. It is watched while the decoder hears the critic, as often
    as metrics are written (`obs.log_every_steps`).
    """

    above: Share | None = None
    """Outside above this: the critic has won, and the decoder learns nothing from it."""
    below: Share | None = None
    """Outside below this: the critic has collapsed."""
    for_steps: Annotated[int, Field(ge=1)] = 1000
    """How long it must stay outside, on one side or the other, at every record."""
    action: Literal["stop", "switch_off"] = "stop"
    """`stop` ends the run with an error; `switch_off` goes on in the phase `reconstruction`, for good: neither is the
    critic trained any more nor does the decoder hear it."""

    @model_validator(mode="after")
    def _bounded(self) -> "CriticAccuracyRecipe":
        if self.above is None and self.below is None:
            raise ValueError("give above or below, or both")
        if self.above is not None and self.below is not None and self.above <= self.below:
            raise ValueError(f"above {self.above:g} is not over below {self.below:g}")
        return self


class DecoderGuardsRecipe(GuardsRecipe):
    """The loop's guards, and the critic's."""

    critic_accuracy: CriticAccuracyRecipe | None = None
    """None lets the critic do as it likes; its accuracy is in the metrics all the same."""


class CriticWatch:
    """Follows `critic/accuracy` from record to record."""

    def __init__(self, recipe: CriticAccuracyRecipe | None) -> None:
        self._recipe = recipe
        self.recall({})

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take over what `memory` gave."""
        self.off_from: int | None = memory.get("adversarial_off_from")
        """First step without the critic, if it was switched off."""
        self._outside_since: int | None = memory.get("critic_outside_since")

    def memory(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {"adversarial_off_from": self.off_from, "critic_outside_since": self._outside_since}

    def look(self, step: int, accuracy: float) -> str | None:
        """The accuracy of a record, before step `step` is taken; a line if the critic was switched off.

        Raises:
            UserError: it was outside for too long, and the recipe says to stop.
        """
        recipe = self._recipe
        if recipe is None or self.off_from is not None:
            return None
        above = recipe.above is not None and accuracy > recipe.above
        below = recipe.below is not None and accuracy < recipe.below
        if not (above or below):
            self._outside_since = None
            return None
        if self._outside_since is None:
            self._outside_since = step
        if step - self._outside_since < recipe.for_steps:
            return None
        bound = f"above {recipe.above:g}" if above else f"below {recipe.below:g}"
        found = (
            f"the critic's accuracy is {accuracy:.3g}, {bound} for {step - self._outside_since} steps: it has "
            f"{'won' if above else 'collapsed'}"
        )
        if recipe.action == "stop":
            raise UserError(
                f"{found}; change optim.critic.lr or the critic and start over, or set "
                "guards.critic_accuracy.action=switch_off to go on without it from the last checkpoint"
            )
        self.off_from, self._outside_since = step, None
        return f"{found}; the adversarial loss is switched off"
