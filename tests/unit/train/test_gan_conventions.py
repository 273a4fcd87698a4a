"""A whole GAN step on the eager runtime is the plain reference's, and not that of a reference with one convention
broken: what `test_spmd_training.py` holds XLA against would not let any of them pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import stages
from tests.unit.train import gan_reference
from tests.unit.train.gan_reference import BREAKS, Reference

TOLERANCE = 1e-4
NOISE = 1e-5
"""What rounding leaves between the Task and the whole reference here."""
CLAMP = "lambda is not clamped"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return stages.world(tmp_path_factory.mktemp("world"))


def _run(values: dict[str, Any], prepare: Any = lambda task: None) -> Reference:
    """The same as `gan_reference.train`, by the Task under test."""
    task: Any
    task, runtime = stages.open_stage(values)
    prepare(task)
    scalars = stages.run_steps(task, runtime, task.steps).scalars
    decoder, critic = ({name: p.detach() for name, p in part.parameters.items()} for part in task.parts)
    return Reference(scalars, decoder, dict(task.parts[0].weights()), critic)


@pytest.fixture(scope="module")
def found(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Nine steps with 8-bit fakes."""
    return _run(gan_reference.recipe(made, tmp_path_factory.mktemp("gan")))


def _differences(first: Reference, second: Reference) -> dict[str, float]:
    """The largest difference of each scalar over the steps, and of each set of weights."""
    out: dict[str, float] = {}
    for here, there in zip(first.scalars, second.scalars, strict=True):
        assert here.keys() == there.keys()
        for name, value in there.items():
            out[name] = max(out.get(name, 0.0), abs(here[name] - value))
    weights: list[tuple[str, dict[str, Tensor], dict[str, Tensor]]] = [
        (name, getattr(first, name), getattr(second, name)) for name in ("decoder", "average", "critic")
    ]
    for name, mine, theirs in weights:
        assert mine.keys() == theirs.keys()
        out[name] = max(float((mine[key] - theirs[key]).abs().max()) for key in mine)
    return out


def test_the_gan_is_the_plain_reference(made, found, tmp_path):
    assert len(found.scalars) == gan_reference.STEPS
    differences = _differences(found, gan_reference.train(made, gan_reference.recipe(made, tmp_path)))
    assert {"loss/gram", "adversarial_weight", "critic/loss", "average", "critic"} <= differences.keys()
    assert max(differences.values()) < NOISE, differences
    last = found.scalars[-1]
    gram, whole = gan_reference.WEIGHTS["gram"] * last["loss/gram"], last["loss/l1"] + last["loss/perceptual"]
    assert gram > 0.05 * whole, "the Gram loss hardly counts: the test shows nothing of it"


@pytest.mark.parametrize("name", sorted(BREAKS.keys() - {CLAMP}))
def test_a_broken_convention_is_seen(name, made, found, tmp_path):
    differences = _differences(found, gan_reference.train(made, gan_reference.recipe(made, tmp_path), {name}))
    assert max(differences.values()) > TOLERANCE + 5 * NOISE, f"{name} ({BREAKS[name]}): {differences}"


def test_lambda_is_clamped(made, tmp_path):
    """A critic whose gradient vanishes, in one step of all losses: lambda is 10,000, and the adversarial loss that."""

    def vanishing(task: Any) -> None:
        with torch.no_grad():
            for head in task.critic.heads:
                head.enter.norm.weight.mul_(1e-9)
                head.mix.norm.weight.mul_(1e-9)

    once = {"train": {"steps": 1, "global_batch_images": 16}, "critic_from_step": 0, "adversarial_from_step": 0}
    values = gan_reference.recipe(made, tmp_path, **once)
    found = _run(values, vanishing)
    expected = gan_reference.train(made, values, prepare=vanishing)
    assert found.scalars[0]["adversarial_weight"] == 1e4 * gan_reference.WEIGHTS["adversarial"]
    for name, value in expected.scalars[0].items():
        if not name.startswith(("critic/", "gradient_norm/critic")):  # 1e-9 has no digits left in the critic's norms
            assert found.scalars[0][name] == pytest.approx(value, rel=1e-5, abs=TOLERANCE), name
    unclamped = gan_reference.train(made, values, {CLAMP}, vanishing)
    assert unclamped.scalars[0]["adversarial_weight"] > 2 * found.scalars[0]["adversarial_weight"]


def test_an_adaptive_weight_that_is_off_is_one(made, found, tmp_path: Path):
    values = gan_reference.recipe(made, tmp_path)
    fixed = _run({**values, "losses": {**values["losses"], "adaptive": False}})
    assert [step["adversarial_weight"] for step in fixed.scalars[6:]] == [gan_reference.WEIGHTS["adversarial"]] * 3
    assert fixed.scalars[6] != found.scalars[6]
