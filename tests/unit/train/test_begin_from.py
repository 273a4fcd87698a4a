"""A new run that takes another run's weights: by name only, with a report of what was and was not taken."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raexla.checkpoint import StartRecipe, save
from raexla.recipe import UserError
from raexla.train.begin_from import begin_from
from tests.unit.checkpoint.worlds import eager


class Notes:
    """What a run directory is told."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def note(self, values: dict[str, Any]) -> None:
        """Merge into `run.json`."""
        self.values |= values


@pytest.fixture
def other(tmp_path: Path) -> str:
    """A run with one checkpoint: a body, a head of five classes, and an optimiser."""
    state = {"model/body.weight": torch.ones(3, 3), "model/head.weight": torch.ones(5, 3), "optim/d/m": torch.ones(2)}
    save(tmp_path / "other" / "checkpoints", 7, state, {}, eager())
    return str(tmp_path / "other")


def state() -> dict[str, torch.Tensor]:
    """A run of seven classes that has not begun."""
    return {"model/body.weight": torch.zeros(3, 3), "model/head.weight": torch.zeros(7, 3), "optim/e/m": torch.zeros(2)}


def test_what_was_taken_left_and_not_used_is_said_and_noted(other):
    run: Any = Notes()
    here = state()
    lines = begin_from(StartRecipe(path=other, leave=("model/head.*",)), here, eager(), run)
    assert (here["model/body.weight"] == 1).all()
    assert not here["model/head.weight"].any()
    assert lines == [
        f"took 1 tensors of step 7 from {other}/checkpoints/step-00000007: model/body (1)",
        "  left as this run made them: model/head (1), optim/e (1)",
        "  not used of the checkpoint: model/head (1), optim/d (1)",
    ]
    assert run.values["start"]["taken"] == ("model/body.weight",)
    assert run.values["start"]["left"] == ("model/head.weight", "optim/e/m")


def test_what_does_not_fit_is_an_error_that_names_it(other):
    run: Any = Notes()
    with pytest.raises(UserError, match=r"does not fit this run: model/head\.weight is \[5, 3\], here \[7, 3\]"):
        begin_from(StartRecipe(path=other), state(), eager(), run)
    with pytest.raises(UserError, match=r"optim/e/m is not in it"):
        begin_from(StartRecipe(path=other, take=("model/body*", "optim/*")), state(), eager(), run)
    with pytest.raises(UserError, match=r"there is no complete checkpoint|there is no such checkpoint"):
        begin_from(StartRecipe(path=f"{other}-else"), state(), eager(), run)
    assert run.values == {}
