"""Checkpoints: pieces that make up the whole, hashes, and what is refused by name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raexla.checkpoint import Checkpoint, checkpoints, latest, prune, save
from raexla.checkpoint.store import NotSharedError
from raexla.recipe import UserError
from raexla.runtime import EagerRecipe, MeshRecipe, Piece, open_runtime
from raexla.runtime.eager import EagerRuntime


class SplitRuntime(EagerRuntime):
    """Hands out tensors in two uneven rows-and-columns splits, with an empty piece as padding leaves one."""

    def __init__(self) -> None:
        super().__init__(EagerRecipe(device="cpu"), MeshRecipe())

    def local_pieces(self, tensor: Tensor) -> Iterator[Piece]:
        values = tensor.detach().numpy()
        if tensor.ndim < 2:
            yield Piece((0,) * tensor.ndim, values)
            return
        rows, columns = 2 * tensor.shape[0] // 3, tensor.shape[1] // 2
        for row, height in ((0, rows), (rows, tensor.shape[0] - rows)):
            for column, width in ((0, columns), (columns, tensor.shape[1] - columns)):
                start = (row, column, *(0,) * (tensor.ndim - 2))
                yield Piece(start, values[row : row + height, column : column + width])
        yield Piece(tuple(tensor.shape), values[:0, :0])


@pytest.fixture
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model/weight": torch.randn(7, 5, generator=generator),
        "model/kernel": torch.randn(4, 3, 2, generator=generator),
        "optim/net/weight/step": torch.tensor(3.0),
        "model/count": torch.arange(6, dtype=torch.int32),
        "model/half": torch.randn(3, 3, generator=generator).to(torch.float16),
    }


def _zeros(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in state.items()}


@pytest.fixture
def runtime() -> Any:
    return open_runtime(EagerRecipe(device="cpu"))


def test_pieces_make_up_the_whole(state, runtime, tmp_path):
    save(tmp_path, 12, state, {"cursor": {"at": 4}}, SplitRuntime())
    checkpoint = latest(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.meta) == (12, {"cursor": {"at": 4}})
    assert len(checkpoint.manifest["tensors"]["model/weight"]["pieces"]) == 4
    fresh = _zeros(state)
    checkpoint.restore(fresh, runtime)
    for name, value in state.items():
        assert fresh[name].dtype == value.dtype
        assert torch.equal(fresh[name], value), name
    assert sorted(name for name, _ in checkpoint.tensors("model/")) == sorted(n for n in state if n[:6] == "model/")


def test_a_flipped_byte_is_named(state, runtime, tmp_path):
    path = save(tmp_path, 1, state, {}, runtime)
    file = path / "pieces-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    fresh = _zeros(state)
    with pytest.raises(UserError, match=r"step-00000001: pieces-00000\.safetensors missing or changed"):
        Checkpoint.open(path).restore(fresh, runtime)
    assert all(not value.any() for value in fresh.values()), "a damaged checkpoint must not be loaded in part"
    file.unlink()
    with pytest.raises(UserError, match=r"pieces-00000\.safetensors missing"):
        Checkpoint.open(path).verify()


def test_all_that_does_not_fit_is_named(state, runtime, tmp_path):
    path = save(tmp_path, 1, state, {}, runtime)
    other = _zeros(state)
    del other["model/count"]
    other["model/new"] = torch.zeros(2)
    other["model/weight"] = torch.zeros(7, 6)
    with pytest.raises(UserError) as raised:
        Checkpoint.open(path).restore(other, runtime)
    message = str(raised.value)
    for part in (
        "model/new is not in it",
        "model/count has no place in this run",
        "model/weight is [7, 5], here [7, 6]",
    ):
        assert part in message


def test_many_problems_are_counted(runtime, tmp_path):
    path = save(tmp_path, 1, {f"a{i}": torch.zeros(1) for i in range(20)}, {}, runtime)
    with pytest.raises(UserError, match="and 12 more"):
        Checkpoint.open(path).restore({}, runtime)


def test_what_is_unfinished_is_absent(state, runtime, tmp_path, monkeypatch):
    save(tmp_path, 1, state, {}, runtime)
    unfinished = tmp_path / ".step-00000002.tmp"
    unfinished.mkdir()
    (unfinished / "pieces-00000.safetensors").write_bytes(b"half")
    (tmp_path / "step-00000003").mkdir()  # renamed, but the manifest is not there
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000001"]
    save(tmp_path, 2, state, {}, runtime)
    assert not unfinished.exists()
    assert latest(tmp_path).step == 2  # type: ignore[union-attr]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raexla.checkpoint.store.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 4, state, {}, runtime)
    assert not list(tmp_path.glob("*00000004*"))
    assert not list(tmp_path.glob(".*00000004*"))


def test_saving_a_step_again_replaces_it(state, runtime, tmp_path):
    save(tmp_path, 5, state, {"who": "first"}, runtime)
    save(tmp_path, 5, state, {"who": "second"}, runtime)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]
    assert latest(tmp_path).meta["who"] == "second"  # type: ignore[union-attr]


def test_prune_keeps_the_newest(state, runtime, tmp_path):
    for step in (10, 2, 30, 4):
        save(tmp_path, step, state, {}, runtime)
    prune(tmp_path, 2)
    assert [Checkpoint.open(p).step for p in checkpoints(tmp_path)] == [10, 30]
    prune(tmp_path, 5)
    assert len(checkpoints(tmp_path)) == 2


def test_no_checkpoint(tmp_path):
    assert latest(tmp_path / "nowhere") is None
    assert latest(tmp_path) is None
    with pytest.raises(UserError, match=r"is not a checkpoint: it has no manifest\.json"):
        Checkpoint.open(tmp_path)


def test_another_format_is_refused(state, runtime, tmp_path):
    path = save(tmp_path, 1, state, {}, runtime)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 7}))
    with pytest.raises(UserError, match="has checkpoint format 7, this program reads 1"):
        latest(tmp_path)


def test_several_processes_are_refused(state, tmp_path):
    runtime: Any = SplitRuntime()
    runtime.process_count = 2
    with pytest.raises(NotSharedError, match="shared writer"):
        save(tmp_path, 1, state, {}, runtime)


def test_it_is_readable_with_numpy_alone(state, tmp_path):
    """The format is plain safetensors and JSON: shapes, offsets and pieces are enough."""
    from safetensors.numpy import load_file

    path: Path = save(tmp_path, 1, state, {}, SplitRuntime())
    manifest = json.loads((path / "manifest.json").read_text())
    entry = manifest["tensors"]["model/kernel"]
    whole = np.full(entry["shape"], np.nan, dtype=np.float32)
    for piece in entry["pieces"]:
        values = load_file(path / piece["file"])[piece["key"]]
        whole[tuple(slice(o, o + n) for o, n in zip(piece["offset"], values.shape, strict=True))] = values
    np.testing.assert_array_equal(whole, state["model/kernel"].numpy())
