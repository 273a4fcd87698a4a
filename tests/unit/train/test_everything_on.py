"""Everything that recipes at scale switch on, all at once, against plain PyTorch: the same losses and parameters.

Loops over blocks, rematerialisation, weights split over `fsdp` and `tensor`, rows over `data`, chunked cross-entropy,
micro-batches, averages, captions and conversations together. One process for each number of virtual devices.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import stages
from tests.unit.train import everything

STEPS = 4
LOSSES, PARAMETERS = 1e-4, 2e-4
#: Loops everywhere, one case each way of rematerialisation, and bfloat16; each half a minute.
ALL_ON: dict[str, Any] = {
    "selective": ((2, 2, 2), {"scan": True, "remat": "selective"}),
    "blocks": ((2, 2, 2), {"scan": True, "remat": "blocks"}),
    "bfloat16": ((2, 2, 2), {"scan": True, "remat": "selective", "dtype": "bfloat16"}),
}
CASES = ["selective", *(pytest.param(case, marks=pytest.mark.slow) for case in ("blocks", "bfloat16"))]
MESHES = {8: [(1, 8, 1), (8, 1, 1), (1, 4, 2), (2, 2, 2)], 2: [(1, 1, 2), (1, 2, 1)]}
WAYS = [(scan, remat) for scan in (False, True) for remat in ("none", "selective", "blocks")]
Runs = Callable[[str], tuple[dict[str, Any], Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return stages.world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def plain(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    return everything.plain(made, tmp_path_factory.mktemp("plain"), STEPS)


@pytest.fixture(scope="module")
def runs(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory, in_process: Callable[..., Any]) -> Runs:
    """A case of `ALL_ON` -> what came out of it and the file of its arrays, run once."""
    done: dict[str, tuple[dict[str, Any], Path]] = {}

    def run(case: str) -> tuple[dict[str, Any], Path]:
        if case not in done:
            folder = tmp_path_factory.mktemp(case)
            found = in_process(everything.several, made, str(folder), 8, {case: ALL_ON[case]}, STEPS)
            done[case] = found[case], folder / f"{case}.npz"
        return done[case]

    return run


def holds(found: dict[str, Any], arrays: Path, plain: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Losses and all trained parameters and averages are those of plain PyTorch."""
    for step, (here, there) in enumerate(zip(found["scalars"], plain[0]["scalars"], strict=True)):
        assert here.keys() == there.keys()
        for name in ("loss", "loss/language", "loss/diffusion"):
            assert here[name] == pytest.approx(there[name], abs=LOSSES), f"step {step}: {name}"
    with np.load(arrays) as trained:
        assert set(trained) == set(plain[1])
        for name, value in plain[1].items():
            np.testing.assert_allclose(trained[name], value, rtol=0, atol=PARAMETERS, err_msg=name)


@pytest.mark.parametrize("case", ["selective", pytest.param("blocks", marks=pytest.mark.slow)])
def test_losses_and_parameters_are_those_of_plain_pytorch(case: str, runs: Runs, plain: Any) -> None:
    found, arrays = runs(case)
    assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
    holds(found, arrays, plain)
    moved = [found["losses"][0] - loss for loss in found["losses"]]
    assert moved[-1] > 10 * LOSSES, "nothing was learned, so nothing was compared"


@pytest.mark.parametrize("case", CASES)
def test_two_steps_compile_and_no_more_and_nothing_falls_back(case: str, runs: Runs) -> None:
    found, _ = runs(case)
    compiled = found["compilations"]
    assert compiled[1:] == [compiled[1]] * (STEPS - 1)
    assert found["fallbacks"] == {}


@pytest.mark.parametrize("case", CASES)
def test_every_weight_its_average_and_its_moments_are_split(case: str, runs: Runs) -> None:
    found, _ = runs(case)
    by_hand = {
        "mllm.llm.embed_tokens.weight": [4, 1],
        "mllm.llm.layers.1.self_attn.q_proj.weight": [4, 1],
        "mllm.llm.layers.1.mlp.down_proj.weight": [2, 2],
        "mllm.queries": [2, 1],
        "dit.blocks.0.attn.qkv.weight": [4, 1],
        "dit.blocks.1.mlp.w12.weight": [2, 2],
        "dit.blocks.1.attn.proj.weight": [2, 2],
    }
    for name, tiles in by_hand.items():
        for kept in (f"model/{name}", *(key for key in found["tiles"] if key.endswith(f"/{name}"))):
            assert found["tiles"][kept][:2] == tiles, kept
    weights = [name for name, size in found["sizes"].items() if len(size) > 1 and "embedding" not in name]
    whole = [name for name in weights if np.prod(found["tiles"][name][:2] or [1]) < 2]
    assert whole == []


@pytest.mark.slow
def test_bfloat16_stays_beside_float32_and_is_not_it(runs: Runs, plain: Any) -> None:
    gap = np.abs(np.array(runs("bfloat16")[0]["losses"]) / np.array(plain[0]["losses"]) - 1)
    assert gap.max() < 1e-3
    assert gap.max() > 1e-6, "nothing was computed in bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "mesh"), [(count, mesh) for count, meshes in MESHES.items() for mesh in meshes])
def test_every_mesh_with_every_way_to_run_blocks(
    devices: int, mesh: Any, made: dict[str, str], plain: Any, in_process: Callable[..., Any], tmp_path: Path
) -> None:
    cases = {f"{remat}{'-scan' * scan}": (mesh, {"scan": scan, "remat": remat}) for scan, remat in WAYS}
    for name, found in in_process(everything.several, made, str(tmp_path), devices, cases, STEPS).items():
        holds(found, tmp_path / f"{name}.npz", plain)
        assert found["compilations"][1:] == [found["compilations"][1]] * (STEPS - 1), name
        assert found["fallbacks"] == {}, name
