"""One step of each stage, eager: accumulation, who gets gradients, who stays as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raexla.train.task import Task
from tests import stages


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny nano world and a pretrained model."""
    root = tmp_path_factory.mktemp("world")
    made = stages.world(root)
    made["model"] = str(stages.save_model(made, root / "start"))
    return made


def _recipe(made: dict[str, str], stage: str, run: Path, **changes: Any) -> dict[str, Any]:
    if stage == "finetune":
        return stages.finetune(made, run, made["model"], **changes)
    return getattr(stages, stage)(made, run, **changes)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "decoder", "language"])
def test_four_micro_batches_are_the_batch(stage, made, tmp_path):
    """Of the decoder all three phases: the adaptive weight is that of the whole batch."""
    changes = {"critic_from_step": 1, "adversarial_from_step": 2} if stage == "decoder" else {}
    images = 16 if stage in ("decoder", "language") else 24
    found = []
    for accumulate in (1, 4):
        train = {"steps": 3, "global_batch_images": images, "accumulate": accumulate}
        task, runtime = stages.open_stage(_recipe(made, stage, tmp_path, train=train, **changes))
        trace = stages.run_steps(task, runtime, 3)
        found.append((trace.scalars, {name: value.clone() for name, value in task.state().items()}))
    (whole, expected), (parts, state) = found
    for there, here in zip(whole, parts, strict=True):
        assert there.keys() == here.keys()
        for name, value in there.items():
            assert here[name] == pytest.approx(value, abs=1e-4, rel=1e-4), name
    for name, value in expected.items():
        if name.startswith(("model/", "ema/")):
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def _modules(task: Any) -> dict[str, nn.Module]:
    """Every network that takes part in a step."""
    if hasattr(task, "model") and hasattr(task.model, "unified"):
        return {"unified": task.model.unified, "codec": task.model.codec}
    if hasattr(task, "decoder"):
        return {"encoder": task.codec.encoder, "decoder": task.decoder, "heads": task.critic.heads}
    return {"towers": task.towers} if hasattr(task, "towers") else {"body": task.body}


def _recorded(task: Task) -> dict[int, list[float]]:
    """id of a trained parameter -> the largest entry of its gradient in each step."""
    seen: dict[int, list[float]] = {}
    for part in task.parts:

        def update(gradients: Any, controls: Any, part: Any = part, original: Any = part.update) -> dict[str, Tensor]:
            for parameter, gradient in zip(part.parameters.values(), gradients, strict=True):
                seen.setdefault(id(parameter), []).append(float(gradient.detach().abs().max()))
            return original(gradients, controls)

        part.update = update  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("stage", ["encoder", "language", "decoder", "pretrain", "finetune"])
def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one_changes(stage, made, tmp_path):
    """Within four steps: zero-initialised modulations and output layers let nothing through in the first one, and the
    null condition is only used by rows whose condition was dropped."""
    changes = {"critic_from_step": 0, "adversarial_from_step": 0} if stage == "decoder" else {}
    task, runtime = stages.open_stage(_recipe(made, stage, tmp_path, **changes))
    named = {f"{module}.{name}": p for module, m in _modules(task).items() for name, p in m.named_parameters()}
    buffers = {
        f"{module}.{name}": b
        for module, m in _modules(task).items()
        if module != "heads"
        for name, b in m.named_buffers()
    }
    before = {name: value.detach().clone() for name, value in (named | buffers).items()}
    trained = {id(p) for part in task.parts for p in part.parameters.values()}
    assert trained <= {id(p) for p in named.values()}
    seen = _recorded(task)
    stages.run_steps(task, runtime, 4)
    for name, parameter in named.items():
        assert parameter.grad is None, f"{name} keeps a gradient"
        if id(parameter) in trained:
            assert parameter.requires_grad, name
            assert max(seen[id(parameter)]) > 0, f"{name} is trained, but no gradient reaches it"
            assert not torch.equal(parameter, before[name]), f"{name} is trained, but stays as it was"
        else:
            assert torch.equal(parameter, before[name]), f"{name} is frozen, but changed"
    for name, value in buffers.items():
        assert torch.equal(value, before[name]), f"{name} is a table, but changed"
    if stage == "pretrain":
        delayed = [name for name, p in named.items() if id(p) in trained and seen[id(p)][0] == 0]
        assert any("adaLN" in name or "mlp" in name or "attn" in name for name in delayed), "nothing starts at zero?"


def test_every_parameter_of_the_generator_is_trained_or_meant_to_be_frozen(made, tmp_path):
    task: Any = stages.open_stage(stages.pretrain(made, tmp_path))[0]
    trained = {name for part in task.parts for name in part.parameters}
    assert trained == {name for name, _ in task.model.unified.named_parameters()}
    assert {part.name: len(part.parameters) for part in task.parts}.keys() == {"llm", "dit"}
    llm, dit = ({*part.parameters} for part in task.parts)
    assert not llm & dit
    assert any(name.startswith("mllm.connector") for name in dit)
    assert "mllm.queries" in llm


def test_without_conversations_the_projector_is_left_alone(made, tmp_path):
    data = {"sources": [{"name": "pairs", "path": made["finetune"], "kind": "caption"}], "order": {"streams": 4}}
    task, runtime = stages.open_stage(stages.pretrain(made, tmp_path, data=data))
    stages.run_steps(task, runtime, 2)
    names = [name for part in task.parts for name in part.parameters]
    assert names
    assert not any("projector" in name for name in names)


def test_tuning_the_dit_alone_leaves_the_language_model_bit_equal(made, tmp_path):
    optim = {"llm": None, "dit": {"lr": 0.001, "clip": 1.0, "ema": 0.9}}
    task: Any
    task, runtime = stages.open_stage(stages.finetune(made, tmp_path, made["model"], optim=optim))
    named = dict(task.model.unified.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    stages.run_steps(task, runtime, 3)
    changed = {name for name, p in named.items() if not torch.equal(p, before[name])}
    assert changed == {name for name in named if name.startswith(("dit.", "mllm.connector."))}
    assert all(named[name].requires_grad == (name in changed) for name in named)
    assert [part.name for part in task.parts] == ["dit"]


def test_rows_that_do_not_divide_are_a_users_error(made, tmp_path):
    from raexla.recipe import UserError

    with pytest.raises(UserError, match=r"train\.global_batch_images 24 does not divide by accumulate 5 .* is 25$"):
        stages.open_stage(
            stages.pretrain(made, tmp_path, train={"steps": 3, "global_batch_images": 24, "accumulate": 5})
        )
