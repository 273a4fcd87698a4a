"""How long a run is and when its phases begin, in steps or in virtual epochs."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raexla.recipe import UserError
from raexla.train.base import TrainRecipe
from raexla.train.decoder import DecoderTrainingRecipe
from tests import stages

MADE = {name: f"/nowhere/{name}" for name in ("encoder", "decoder")}


def recipe(**changes: Any) -> DecoderTrainingRecipe:
    """The tiny decoder's recipe; keys that are None are left out."""
    values = {**stages.decoder(MADE, "/nowhere/run"), **changes}
    found = stages.resolve({key: value for key, value in values.items() if value is not None})
    assert isinstance(found, DecoderTrainingRecipe)
    return found


def test_eighty_epochs_of_512_are_200_000_steps():
    train = TrainRecipe(epochs=80, global_batch_images=512)
    assert train.total_steps == 200_000
    assert train.epoch_steps == 2500
    assert train.describe() == "80 epochs x 1,280,000 images / 512 = 200,000 steps"


def test_what_does_not_divide_is_rounded_up():
    train = TrainRecipe(epochs=0.3, epoch_images=100, global_batch_images=8)
    assert train.total_steps == 4  # 3.75
    assert TrainRecipe(epochs=0.1, epoch_images=30, global_batch_images=3).total_steps == 1  # no 1.0000000000000002


def test_steps_are_what_they_were():
    train = TrainRecipe(steps=260, global_batch_images=64)
    assert train.total_steps == 260
    assert train.describe() == "260 steps x 64 images"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 3, "epochs": 80}, "steps 3 and epochs 80 are both given: leave one out, or set it to null"),
        ({}, "give steps or epochs"),
    ],
)
def test_exactly_one_of_steps_and_epochs(values, message):
    with pytest.raises(ValidationError, match=message):
        TrainRecipe(global_batch_images=8, **values)


def test_phases_begin_where_the_epochs_say():
    train = {"epochs": 80, "global_batch_images": 512}
    of_table_7 = recipe(
        train=train, critic_from_step=None, adversarial_from_step=None, critic_from_epoch=7, adversarial_from_epoch=8
    )
    starts = [of_table_7.first_step(what) for what in ("perceptual", "critic", "adversarial")]
    assert starts == [0, 17_500, 20_000]
    assert of_table_7.describe_start("critic") == "step 17,500 (7 epochs x 1,280,000 images / 512)"
    assert recipe().describe_start("adversarial") == "step 6"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critic_from_epoch": 1}, r"critic_from_step 3 and critic_from_epoch 1 are both given"),
        ({"critic_from_step": 8}, "the adversarial loss starts at step 6, before the critic .step 8."),
        ({"perceptual_from_step": 4}, "the critic starts at step 3, before the perceptual loss .step 4."),
    ],
)
def test_phases_out_of_order_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        recipe(**changes)


def test_a_person_is_told_how_epochs_come_to_steps(tmp_path: Path):
    made = stages.world(tmp_path / "world")
    schedule = {"warmup_epochs": 1, "min_lr": 0.001}
    values = stages.decoder(
        made, tmp_path / "run", train={"epochs": 3, "epoch_images": 48, "global_batch_images": 16},
        perceptual_from_epoch=1, critic_from_epoch=1, adversarial_from_epoch=2,
        optim={"decoder": {"lr": 0.002, "schedule": schedule}, "critic": {"lr": 0.002}},
    )  # fmt: skip
    del values["critic_from_step"], values["adversarial_from_step"]
    task, runtime = stages.open_stage(values)
    lines = task.describe()
    assert lines[0] == "3 epochs x 48 images / 16 = 9 steps"
    assert lines[1].startswith("decoder: ")
    assert lines[1].endswith("lr 0.002 to 0.001 cosine over 9 steps, 3 of them warm-up")
    assert lines[2].endswith("lr 0.002 to 0 cosine over 6 steps from step 3, 0 of them warm-up")
    assert lines[-1].startswith("TFLOP of a step, all networks: pixels ")
    assert lines[3:-1] == [
        "perceptual loss from step 3 (1 epochs x 48 images / 16)",
        "critic from step 3 (1 epochs x 48 images / 16)",
        "adversarial loss from step 6 (2 epochs x 48 images / 16)",
    ]
    trace = stages.run_steps(task, runtime, 8)
    assert trace.phases == ["pixels"] * 3 + ["critic"] * 3 + ["adversarial"] * 2
    assert "loss/perceptual" not in trace.scalars[2]
    assert trace.scalars[2]["loss"] == trace.scalars[2]["loss/l1"]
    assert trace.scalars[3]["loss/perceptual"] > 0
