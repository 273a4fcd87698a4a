"""Training on 1, 2 and 4 XLA devices: the losses of eager, one compilation a phase, no fallback, portable checkpoints.

One fresh process for each device count does everything that is asked of that count.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from raexla.checkpoint import latest, save
from tests import stages
from tests.unit.train import gan_reference

STEPS = 20
SAVED = 10
TOLERANCE = 1e-4
EVALUATION = {
    "batches": 2,
    "prompts": ["a red circle", "two blue squares"],
    "sampling": {
        "sampler": {"type": "euler", "steps": 3},
        "guidance": {"type": "cfg", "scale": 2.0},
        "batch_images": 4,
    },
}


def _evaluated(made: dict[str, str], drawn: bool) -> dict[str, Any]:
    """Validation losses everywhere; pictures, whose sampler compiles long, only where `drawn`."""
    sources = [
        {"name": "pairs", "path": made["finetune"], "kind": "caption", "weight": 2},
        {"name": "asked", "path": made["understanding"], "kind": "conversation", "weight": 1},
    ]
    pictures = EVALUATION if drawn else {"batches": 2}
    return {**pictures, "sources": sources}


def _pretrain(made: dict[str, str], decoder: str, devices: int, mesh: dict[str, Any], folder: str) -> dict[str, Any]:
    """20 steps with an evaluation after the tenth and after the last; devices 0 is eager."""
    codec = {"type": "rae", "encoder": {"type": "siglip2", "path": made["encoder"]}, "weights": {"path": decoder}}
    values = stages.pretrain(made, f"{folder}/run", codec=codec, eval=_evaluated(made, drawn=devices == 4 and not mesh))
    if devices:
        values |= {"runtime": {"type": "xla", "platform": "cpu", "devices": devices}, "mesh": mesh}
    task, runtime = stages.open_stage(values)
    trace = stages.run_steps(task, runtime, SAVED)
    save(Path(folder) / "checkpoints", SAVED, task.state(), {"cursor": trace.cursors[-1]}, runtime)
    before = runtime.counters().compilations
    evaluations = [task.evaluate(SAVED, Path(folder))]
    between = runtime.counters().compilations
    evaluations.append(task.evaluate(SAVED, Path(folder)))
    after = runtime.counters().compilations
    rest = stages.run_steps(task, runtime, STEPS, SAVED, trace.cursors[-1])
    task.export(Path(folder) / "artifact", {})
    return {
        "mesh": runtime.mesh,
        "losses": trace.losses + rest.losses,
        "compilations": trace.compilations,
        "resumed": rest.compilations,
        "evaluations": evaluations,
        "first_evaluation": between - before,
        "second_evaluation": after - between,
        "fallbacks": runtime.counters().fallbacks,
    }


def _unrounded(values: dict[str, Any]) -> dict[str, Any]:
    """Without the 8-bit fakes: where a value is rounded, the last bit decides about 1/255."""
    return {**values, "losses": {**values["losses"], "quantise_fakes": False}}


def _decoder(made: dict[str, str], devices: int, folder: str) -> dict[str, Any]:
    """The three phases of the GAN, all losses on."""
    runtime_values = {"type": "xla", "platform": "cpu", "devices": devices} if devices else stages.EAGER
    evaluation = {"source": {"name": "held", "path": made["pretrain"], "kind": "image"}, "images": 20, "shown": 2}
    values = _unrounded(gan_reference.recipe(made, f"{folder}/gan", runtime=runtime_values, eval=evaluation))
    task, runtime = stages.open_stage(values)
    trace = stages.run_steps(task, runtime, 9)
    trained = {f"{part.name}/{name}": p for part in task.parts for name, p in part.parameters.items()}
    np.savez(f"{folder}/trained.npz", **{name: runtime.to_host(p) for name, p in trained.items()})
    figures = [task.evaluate(9, Path(folder))]
    before = runtime.counters().compilations
    figures.append(task.evaluate(9, Path(folder)))
    after = runtime.counters().compilations
    task.export(Path(folder) / "decoder", {})
    return {
        "scalars": trace.scalars,
        "phases": trace.phases,
        "compilations": trace.compilations,
        "figures": figures,
        "second_evaluation": after - before,
        "fallbacks": runtime.counters().fallbacks,
    }


def on_devices(devices: int, made: dict[str, str], decoder: str, folder: str) -> dict[str, Any]:
    """Everything that is run on so many devices; 0 is eager, in the process of the tests."""
    out = {"pretrain": _pretrain(made, decoder, devices, {}, f"{folder}/fsdp")}
    if devices == 4:
        out["replicas"] = _pretrain(made, decoder, devices, {"data": 4, "fsdp": 1}, f"{folder}/data")
    if devices != 2:
        out["decoder"] = _decoder(made, devices, folder)
    return out


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """The world, and a decoder's artifact for the pictures of the evaluation."""
    root = tmp_path_factory.mktemp("world")
    made = stages.world(root)
    task, _ = stages.open_stage(stages.decoder(made, root / "run"))
    task.export(root / "decoder", {})
    return made, str(root / "decoder")


@pytest.fixture(scope="module")
def runs(
    nano: tuple[dict[str, str], str], tmp_path_factory: pytest.TempPathFactory, in_process: Callable[..., Any]
) -> Callable[[int], tuple[dict[str, Any], Path]]:
    """devices -> (what came out, its folder), run once."""
    done: dict[int, tuple[dict[str, Any], Path]] = {}

    def run(devices: int) -> tuple[dict[str, Any], Path]:
        if devices not in done:
            folder = tmp_path_factory.mktemp(f"devices-{devices}")
            call = in_process if devices else lambda function, *arguments: function(*arguments)
            done[devices] = call(on_devices, devices, *nano, str(folder)), folder
        return done[devices]

    return run


CASES = [(1, "pretrain"), (2, "pretrain"), (4, "pretrain"), (4, "replicas")]


@pytest.mark.parametrize(("devices", "case"), CASES)
def test_pretraining_has_the_losses_of_eager(devices, case, runs):
    expected, found = runs(0)[0]["pretrain"], runs(devices)[0][case]
    replicas = case == "replicas"
    assert found["mesh"] == {"data": 4 if replicas else 1, "fsdp": 1 if replicas else devices, "tensor": 1}
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=TOLERANCE)
    assert expected["losses"][-1] < 0.9 * expected["losses"][0]
    assert set(expected["evaluations"][0]) == {f"validation/loss{end}" for end in ("", "/language", "/diffusion")}
    for name, value in expected["evaluations"][0].items():
        assert found["evaluations"][0][name] == pytest.approx(value, abs=TOLERANCE)
    assert found["evaluations"][0] == found["evaluations"][1]


@pytest.mark.parametrize(("devices", "case"), CASES)
def test_nothing_compiles_after_the_second_step_and_the_first_evaluation(devices, case, runs):
    found = runs(devices)[0][case]
    assert found["compilations"][1] > 0
    assert found["compilations"][-1] == found["compilations"][1]
    assert found["first_evaluation"] > 0
    assert found["second_evaluation"] == 0
    assert found["resumed"][-1] == found["resumed"][1]
    assert found["fallbacks"] == {}


@pytest.mark.parametrize(("saved_on", "goes_on"), [(4, 0), (0, 0)])
def test_a_checkpoint_goes_on_on_another_number_of_devices(saved_on, goes_on, runs, nano, tmp_path):
    made, decoder = nano
    found, folder = runs(saved_on)
    codec = {"type": "rae", "encoder": {"type": "siglip2", "path": made["encoder"]}, "weights": {"path": decoder}}
    task, runtime = stages.open_stage(stages.pretrain(made, tmp_path, codec=codec, eval=_evaluated(made, False)))
    checkpoint = latest(folder / "fsdp" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == SAVED
    checkpoint.restore(task.state(), runtime)
    rest = stages.run_steps(task, runtime, STEPS, SAVED, checkpoint.meta["cursor"])
    exact = saved_on == goes_on
    np.testing.assert_allclose(rest.losses, found["pretrain"]["losses"][SAVED:], rtol=0, atol=0 if exact else TOLERANCE)
    task.export(tmp_path / "artifact", {})
    trained = load_file(folder / "fsdp" / "artifact" / "model.safetensors")
    for name, value in load_file(tmp_path / "artifact" / "model.safetensors").items():
        np.testing.assert_allclose(value, trained[name], rtol=0, atol=0 if exact else 2e-4, err_msg=name)


def test_pieces_of_four_devices_are_split(runs):
    checkpoint = latest(runs(4)[1] / "fsdp" / "checkpoints")
    assert checkpoint is not None
    pieces = {name: len(entry["pieces"]) for name, entry in checkpoint.manifest["tensors"].items()}
    split = [name for name, count in pieces.items() if count == 4]
    assert any(name.startswith("model/") for name in split)
    assert any(name.endswith("exp_avg") for name in split)
    assert any(name.startswith("ema/") for name in split)


@pytest.fixture(scope="module")
def gan(nano: tuple[dict[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> gan_reference.Reference:
    """The plain reference."""
    made = nano[0]
    return gan_reference.train(made, _unrounded(gan_reference.recipe(made, tmp_path_factory.mktemp("gan"))))


@pytest.mark.parametrize("devices", [0, 1, 4])
def test_the_gan_is_the_plain_reference(devices, gan, runs):
    found, folder = runs(devices)
    for step, (here, there) in enumerate(zip(found["decoder"]["scalars"], gan.scalars, strict=True)):
        assert here.keys() == there.keys()
        for name, value in there.items():
            assert here[name] == pytest.approx(value, abs=TOLERANCE), f"step {step}: {name}"
    for name, value in load_file(folder / "decoder" / "model.safetensors").items():
        np.testing.assert_allclose(value, gan.average[name], rtol=0, atol=TOLERANCE, err_msg=name)
    with np.load(folder / "trained.npz") as trained:
        expected = {f"decoder/{name}": p for name, p in gan.decoder.items()}
        expected |= {f"critic/{name}": p for name, p in gan.critic.items()}
        assert set(trained) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(trained[name], value, rtol=0, atol=TOLERANCE, err_msg=name)
    assert found["decoder"]["figures"][0] == found["decoder"]["figures"][1]
    for name, value in runs(0)[0]["decoder"]["figures"][0].items():
        assert found["decoder"]["figures"][0][name] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("devices", [1, 4])
def test_each_phase_of_the_gan_compiles_once(devices, runs):
    found = runs(devices)[0]["decoder"]
    assert found["phases"] == ["reconstruction"] * 3 + ["critic"] * 3 + ["adversarial"] * 3
    for first in (0, 3, 6):
        assert found["compilations"][first + 1] > (found["compilations"][first - 1] if first else 0)
        assert found["compilations"][first + 2] == found["compilations"][first + 1]
    assert found["second_evaluation"] == 0
    assert found["fallbacks"] == {}
