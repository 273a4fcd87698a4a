"""The optional Weights & Biases mirror."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raexla.recipe import UserError


def open_wandb(project: str, run: Path, recipe_values: Mapping[str, Any]) -> Any:
    """Start (or go on with) the wandb run that mirrors the run directory `run`."""
    try:
        import wandb
    except ImportError as missing:
        raise UserError(
            "obs.wandb_project is set, but wandb is not installed: pip install 'raexla[wandb]'"
        ) from missing
    return wandb.init(project=project, name=run.name, dir=str(run), resume="allow", config=dict(recipe_values))
