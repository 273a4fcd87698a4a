"""Which checkpoints are kept, and why."""

import math
from collections.abc import Mapping

from raexla.checkpoint.recipe import CheckpointRecipe


def kept(saved: Mapping[int, Mapping[str, float]], recipe: CheckpointRecipe) -> dict[int, list[str]]:
    """Why each of the saved steps is kept; those that may go have no reason.

    Args:
        saved: step -> figures of the checkpoints that are complete.
    """
    reasons: dict[int, list[str]] = {step: [] for step in sorted(saved)}
    steps = list(reasons)
    for step in steps[-recipe.keep :]:
        reasons[step].append("newest" if step == steps[-1] else f"last {recipe.keep}")
    if recipe.keep_every_steps is not None:
        for step in steps:
            if step and step % recipe.keep_every_steps == 0:
                reasons[step].append(f"every {recipe.keep_every_steps}")
    if recipe.best is not None:
        metric, sign = recipe.best.metric, 1 if recipe.best.mode == "min" else -1
        valued = [step for step in steps if math.isfinite(saved[step].get(metric, math.nan))]
        # of equals the later one
        for step in sorted(valued, key=lambda s: (sign * saved[s][metric], -s))[: recipe.best.keep]:
            reasons[step].append(f"best {metric} {saved[step][metric]:.4g}")
    return reasons
