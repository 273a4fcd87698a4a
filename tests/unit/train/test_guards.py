"""The parts of the guards: which batches are skipped, when a critic counts as collapsed, means of each source."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raexla.recipe import UserError
from raexla.runtime import Scalars
from raexla.train.decoder.collapse import CriticAccuracyRecipe, CriticWatch
from raexla.train.decoder.sources import by_source, split
from raexla.train.guards import NotFiniteError, SkipList, Taken, quarantined, read


def taken(step: int, loss: float) -> Taken:
    return Taken(step, "train", step + 2, (f"web/s0/{step}",), Scalars(["x", "loss"], torch.tensor([1.0, loss])))


def test_a_step_that_is_not_finite_names_itself_and_its_samples():
    assert read(taken(4, 1.0)) == {"x": 1.0, "loss": 1.0}
    with pytest.raises(NotFiniteError, match=r"^loss is -inf at step 5$") as caught:
        read(taken(5, float("-inf")))
    assert quarantined(caught.value) == [
        {"uid": "web/s0/5", "source": "web", "reason": "non_finite_step", "detail": str(caught.value), "batch": 7}
    ]


def test_a_skip_list_is_the_file_and_the_checkpoint_together(tmp_path):
    saved = [{"batch": 2, "step": 2, "reason": "loss is nan at step 2"}]
    skips = SkipList(tmp_path, saved, write=True)
    skips.add(NotFiniteError(taken(5, float("nan")), "loss", float("nan")))
    assert [batch for batch in range(9) if batch in skips] == [2, 7]
    with (tmp_path / "skipped.jsonl").open("a") as file:
        file.write('{"batch": 8, "st')  # the machine went down in a line
    again = SkipList(tmp_path, (), write=True)
    assert again.as_list() == [{"batch": 7, "step": 5, "reason": "loss is nan at step 5"}]
    assert SkipList(tmp_path, saved, write=True).as_list() == skips.as_list()
    assert len(SkipList(tmp_path / "elsewhere", skips.as_list(), write=False)) == 2


def outcomes(watch: CriticWatch, accuracies: list[float], first: int = 1) -> list[str | None]:
    """What the watch says of consecutive steps; each is read two steps late."""
    return [watch.look(step, accuracy, step + 2) for step, accuracy in enumerate(accuracies, start=first)]


def test_a_critic_that_stays_outside_is_switched_off_and_one_that_returns_is_not():
    watch = CriticWatch(CriticAccuracyRecipe(above=0.9, below=0.3, for_steps=3, action="switch_off"))
    assert outcomes(watch, [0.95, 0.95, 0.8, 0.95, 0.95, 0.2, 0.2]) == [None] * 7  # a step inside, then the other side
    watch.recall(json.loads(json.dumps(watch.memory())))
    (said,) = outcomes(watch, [0.2], 8)
    assert said is not None
    assert said.startswith("the critic's accuracy is 0.2, below 0.3 for 3 steps: it has collapsed; the adversarial")
    assert watch.off_from == 10
    assert outcomes(watch, [0.2] * 5, 9) == [None] * 5
    other = CriticWatch(CriticAccuracyRecipe(above=0.9))
    other.recall(watch.memory())
    assert other.off_from == 10
    other.recall({})
    assert other.off_from is None


def test_a_critic_that_wins_stops_the_run():
    watch = CriticWatch(CriticAccuracyRecipe(above=0.9, for_steps=5))
    assert outcomes(watch, [1.0] * 4) == [None] * 4
    with pytest.raises(UserError, match=r"accuracy is 1, above 0.9 for 5 steps: it has won; .*action=switch_off"):
        watch.look(5, 1.0, 6)
    with pytest.raises(UserError, match="for 1 step:"):
        CriticWatch(CriticAccuracyRecipe(below=0.5, for_steps=1)).look(1, 0.0, 2)
    assert CriticWatch(None).look(10, 1.0, 11) is None


@pytest.mark.parametrize(
    ("values", "message"), [({}, "give above or below"), ({"above": 0.4, "below": 0.6}, "not over")]
)
def test_a_range_that_is_none_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        CriticAccuracyRecipe(**values)


def test_losses_of_each_source_are_means_over_its_rows():
    rows = {"l1": torch.tensor([1.0, 2.0, 4.0, 8.0]), "gram": torch.tensor([0.0, 1.0, 0.0, 3.0])}
    source = torch.tensor([0, 2, 0, 2], dtype=torch.int32)
    parts = [
        split({k: v[i : i + 2] for k, v in rows.items()}, source[i : i + 2], ["web", "none", "text"]) for i in (0, 2)
    ]
    summed = {name: float(parts[0][name] + parts[1][name]) for name in parts[0]}
    found = by_source({"loss": 3.75, "loss/l1": 3.75, **summed})
    expected = {"loss": 3.75, "loss/l1": 3.75, "rows/web": 2, "rows/none": 0, "rows/text": 2}
    expected |= {"loss/l1/web": 2.5, "loss/l1/text": 5.0, "loss/gram/web": 0.0, "loss/gram/text": 2.0}
    assert found == expected
    whole = np.average([found["loss/l1/web"], found["loss/l1/text"]], weights=[found["rows/web"], found["rows/text"]])
    assert whole == found["loss/l1"]
