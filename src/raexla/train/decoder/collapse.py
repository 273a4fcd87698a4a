"""A watch over the critic: a GAN whose critic wins for good, or gives up, is stopped or goes on without it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raexla.recipe import Recipe, UserError
from raexla.train.guards import GuardsRecipe

Share = Annotated[float, Field(ge=0, le=1)]


class CriticAccuracyRecipe(Recipe):
    """What to do when the critic's accuracy leaves its range and stays outside.

    0.5 is a critic that guesses, 1 one that is always right. It is watched at every step at which the decoder hears the
    critic; scalars are read when metrics are written (`obs.log_every_steps`), so the action comes up to so many steps
    late.
    """

    above: Share | None = None
    """Outside above this: the critic has won, and the decoder learns nothing from it."""
    below: Share | None = None
    """Outside below this: the critic has collapsed."""
    for_steps: Annotated[int, Field(ge=1)] = 1000
    """So many steps in a row must be outside, on the same side."""
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
    """Follows `critic/accuracy` from step to step."""

    def __init__(self, recipe: CriticAccuracyRecipe | None) -> None:
        self._recipe = recipe
        self.recall({})

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take over what `memory` gave."""
        self.off_from: int | None = memory.get("adversarial_off_from")
        """First step without the critic, if it was switched off."""
        self._side: str | None = memory.get("critic_side")
        self._since: int | None = memory.get("critic_outside_since")

    def memory(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {
            "adversarial_off_from": self.off_from,
            "critic_side": self._side,
            "critic_outside_since": self._since,
        }

    def look(self, step: int, accuracy: float, coming: int) -> str | None:
        """The accuracy of the `step`-th step; a line if the critic was switched off, from step `coming` on.

        Raises:
            UserError: it was outside for too long, and the recipe says to stop.
        """
        recipe = self._recipe
        if recipe is None or self.off_from is not None:
            return None
        side = None
        if recipe.above is not None and accuracy > recipe.above:
            side = f"above {recipe.above:g}"
        elif recipe.below is not None and accuracy < recipe.below:
            side = f"below {recipe.below:g}"
        if side != self._side or self._since is None:
            self._side, self._since = side, step
        lasted = step - self._since + 1
        if side is None or lasted < recipe.for_steps:
            return None
        end = "won" if side.startswith("above") else "collapsed"
        steps = f"{lasted} step{'s' if lasted > 1 else ''}"
        found = f"the critic's accuracy is {accuracy:.3g}, {side} for {steps}: it has {end}"
        if recipe.action == "stop":
            raise UserError(
                f"{found}; change optim.critic.lr or the critic and start over, or set "
                "guards.critic_accuracy.action=switch_off to go on without it from the last checkpoint"
            )
        self.off_from = coming
        return f"{found}; the adversarial loss is switched off"
