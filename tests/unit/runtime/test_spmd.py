"""The runtimes against each other: placement, one compile, equal losses, pieces that make up the whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raexla.checkpoint import latest, save
from raexla.optim import OptimizerRecipe, Part, ScheduleRecipe
from raexla.runtime import Draws, EagerRecipe, MeshRecipe, Runtime, XlaRecipe, open_runtime

TABLE = [
    ("0.weight", (("tensor", "fsdp"), None)),
    ("0.bias", ("tensor",)),
    ("2.weight", (None, "fsdp")),
    ("2.bias", (None,)),
]


def train(folder: str, devices: int, tensor: int = 1, steps: int = 6) -> dict[str, Any]:
    """A small regression with noise from `Draws`, clipping and EMA, saved at the end; devices 0 is eager."""
    runtime = open_runtime(EagerRecipe(device="cpu") if devices == 0 else XlaRecipe(platform="cpu", devices=devices),
                           MeshRecipe(tensor=tensor))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    runtime.place(model, TABLE)
    recipe = OptimizerRecipe(lr=1e-2, clip=0.5, weight_decay=0.1, ema=0.9, schedule=ScheduleRecipe(warmup_steps=2))
    part = Part("net", recipe, dict(model.named_parameters()), runtime, steps)

    def step(batch: dict[str, torch.Tensor], controls: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x, rows = batch["x"][0], batch["rows"][0]
        noise = Draws(5, controls["step"].to(torch.int32), rows).normal("noise", (6,))
        loss = (model(x + 0.1 * noise) - x[:, :3]).square().mean()
        scalars = part.update(torch.autograd.grad(loss, list(part.parameters.values())), controls)
        return {"loss": loss, **scalars}

    compiled = runtime.compile_step(step, lambda: [*model.parameters(), *part.state().values()])
    numbers = np.random.default_rng(0)
    losses, compilations = [], []
    for index in range(steps):
        batch = {"x": numbers.normal(size=(8, 6)).astype(np.float32), "rows": np.arange(8, dtype=np.int32)}
        losses.append(compiled(runtime.put(batch), {"step": float(index), **part.controls(index)}).read()["loss"])
        compilations.append(runtime.counters().compilations)
    return {
        "losses": losses,
        "compilations": compilations,
        "fallbacks": runtime.counters().fallbacks,
        "weights": {n: p.detach().cpu().tolist() for n, p in model.named_parameters()},
        "ema": {n: runtime.to_host(p).tolist() for n, p in part.ema.items()},
        "assembled": {n: _assembled(runtime, p) for n, p in model.named_parameters()},
        "mesh": runtime.mesh,
        "restored": _restored(runtime, folder, devices, {**dict(model.named_parameters()), **part.state()}),
        "assigned": _assigned(runtime, model[0].weight),
        "reading compiles": _read(runtime),
    }


def _restored(runtime: Runtime, folder: str, devices: int, state: dict[str, torch.Tensor]) -> dict[str, bool]:
    """Saves `state`, then restores what each number of devices has saved so far; whether it is what they had."""
    values = {name: runtime.to_host(value) for name, value in state.items()}
    np.savez(f"{folder}/{devices}.npz", **{name.replace("/", "|"): value for name, value in values.items()})
    save(f"{folder}/{devices}", 1, state, {}, runtime)
    same = {}
    for saved in sorted(Path(folder).glob("*.npz")):
        found = latest(saved.with_suffix(""))
        assert found is not None
        found.restore(state, runtime)
        expected = {name.replace("|", "/"): value for name, value in np.load(saved).items()}
        pieces = {name: [p.values for p in runtime.local_pieces(value)] for name, value in state.items()}
        same[saved.stem] = all((runtime.to_host(state[name]) == value).all() for name, value in expected.items())
        same[f"{saved.stem} split as before"] = devices < 2 or len(pieces["0.weight"]) == devices
    return same


def _assembled(runtime: Runtime, tensor: torch.Tensor) -> list[Any]:
    whole = np.full(tuple(tensor.shape), np.nan, dtype=np.float32)
    for piece in runtime.local_pieces(tensor):
        where = tuple(slice(o, o + n) for o, n in zip(piece.offset, piece.values.shape, strict=True))
        assert np.isnan(whole[where]).all(), "an element stands in two pieces"
        whole[where] = piece.values.numpy()
    return whole.tolist()


def _assigned(runtime: Runtime, tensor: torch.Tensor) -> float:
    runtime.assign(tensor, np.full(tuple(tensor.shape), 3.0, dtype=np.float32))
    runtime.finish()
    return float(runtime.to_host(tensor).mean())


def _read(runtime: Runtime) -> int:
    """Compilations that reading a result takes which is split by rows."""
    rows = np.arange(32, dtype=np.float32).reshape(8, 4)
    made = runtime.compile(lambda x: x[0] * 2)(runtime.put({"x": rows})["x"])
    runtime.finish()
    before = runtime.counters().compilations
    np.testing.assert_array_equal(runtime.to_host(made), rows * 2)
    return runtime.counters().compilations - before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def eager(folder: str) -> dict[str, Any]:
    return train(folder, 0)


@pytest.mark.parametrize(("devices", "tensor"), [(1, 1), (2, 1), (4, 2)])
def test_spmd_equals_eager(
    devices: int, tensor: int, eager: dict[str, Any], folder: str, in_process: Callable[..., Any]
) -> None:
    xla = in_process(train, folder, devices, tensor)
    assert xla["mesh"] == {"data": 1, "fsdp": devices // tensor, "tensor": tensor}
    np.testing.assert_allclose(xla["losses"], eager["losses"], atol=1e-5)
    for kind in ("weights", "ema"):
        for name, values in eager[kind].items():
            np.testing.assert_allclose(xla[kind][name], values, atol=2e-5, err_msg=f"{kind} {name}")
    assert xla["assembled"] == xla["weights"]
    assert xla["assigned"] == 3.0
    assert xla["reading compiles"] == 0
    assert {"0", str(devices)} <= xla["restored"].keys(), "nothing was saved elsewhere"
    assert all(xla["restored"].values()), xla["restored"]
    found = latest(f"{folder}/{devices}")
    assert found is not None
    state = {name: torch.zeros(entry["shape"]) for name, entry in found.manifest["tensors"].items()}
    found.restore(state, open_runtime(EagerRecipe(device="cpu")))
    for name, value in np.load(f"{folder}/{devices}.npz").items():
        np.testing.assert_array_equal(state[name.replace("|", "/")].numpy(), value, err_msg=name)
    assert xla["compilations"][-1] == xla["compilations"][1], "a step after the second compiled again"
    assert xla["fallbacks"] == {}
