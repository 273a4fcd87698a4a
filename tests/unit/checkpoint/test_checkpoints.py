"""Checkpoints: pieces that make up the whole, hashes, and what is refused by name."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raexla.checkpoint import Checkpoint, CheckpointDamaged, checkpoints, latest, reading, save
from raexla.checkpoint import pieces as cutting
from raexla.files import Store
from raexla.recipe import UserError
from raexla.runtime import EagerRecipe, MeshRecipe
from raexla.runtime.base import Part
from raexla.runtime.eager import EagerRuntime
from tests.unit.checkpoint.worlds import SplitRuntime, assert_same, eager, small_state, zeros


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 40 bytes: even these tensors are cut, twice where a row is more."""
    monkeypatch.setattr(cutting.cut, "__defaults__", (40,))


@pytest.mark.parametrize("kind", [eager, SplitRuntime])
def test_pieces_make_up_the_whole(kind, small_blocks, tmp_path):
    state = small_state()
    save(tmp_path, 12, state, {"cursor": {"at": 4}}, kind())
    checkpoint = latest(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.meta) == (12, {"cursor": {"at": 4}})
    assert len(checkpoint.manifest["tensors"]["model/weight"]["pieces"]) >= 4
    checkpoint.verify()
    fresh = zeros(state)
    loaded = checkpoint.restore(fresh, eager())
    assert_same(fresh, state)
    assert set(loaded.taken) == set(state)
    assert loaded.left == loaded.unused == ()
    assert sorted(name for name, _ in checkpoint.tensors("model/")) == sorted(n for n in state if n[:6] == "model/")
    whole = dict(checkpoint.tensors())
    np.testing.assert_array_equal(whole["model/kernel"], state["model/kernel"].numpy())
    np.testing.assert_array_equal(whole["model/brain"], state["model/brain"].float().numpy())


def test_it_is_readable_with_safetensors_alone(small_blocks, tmp_path):
    """The format is plain safetensors and JSON: shapes, offsets and pieces are enough."""
    state = small_state()
    path = Path(save(tmp_path, 1, state, {}, SplitRuntime()))
    manifest = json.loads((path / "manifest.json").read_text())
    for name, value in state.items():
        whole = torch.zeros_like(value)
        for piece in manifest["tensors"][name]["pieces"]:
            values = load_file(path / piece["file"])[piece["key"]]
            whole[tuple(slice(o, o + n) for o, n in zip(piece["offset"], values.shape, strict=True))] = values
        assert torch.equal(whole, value), name


def test_files_have_a_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(cutting.cut, "__defaults__", (1000,))
    state = {f"model/{n}": torch.full((50, 10), float(n)) for n in range(7)}
    blocks = [block for key, value in state.items() for block in cutting.cut(key, (0, 0), value)]
    assert max(block.bytes for block in blocks) == 1000
    files = cutting.pack(blocks, 4096, "pieces-00000")
    assert [file.name for file in files] == [f"pieces-00000-{n:03d}.safetensors" for n in range(4)]
    assert all(sum(block.bytes for block in file.blocks) <= 4096 for file in files)


def test_a_big_row_is_cut_further_and_a_number_is_not():
    value = torch.arange(2 * 300, dtype=torch.float32).reshape(1, 2, 300)
    blocks = list(cutting.cut("a", (5, 0, 0), value, 400))
    assert [(block.offset, tuple(block.values.shape)) for block in blocks] == [
        ((5, 0, 0), (1, 1, 100)), ((5, 0, 100), (1, 1, 100)), ((5, 0, 200), (1, 1, 100)),
        ((5, 1, 0), (1, 1, 100)), ((5, 1, 100), (1, 1, 100)), ((5, 1, 200), (1, 1, 100)),
    ]  # fmt: skip
    assert [block.offset for block in cutting.cut("a", (), torch.tensor(1.0, dtype=torch.float64), 4)] == [()]
    assert list(cutting.cut("a", (0,), torch.zeros(0))) == []


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_dealing_is_fair_and_complete(count):
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(1, 4000, (60,), generator=generator).tolist()
    blocks = [cutting.Block(f"t{n}", (0,), torch.zeros(size)) for n, size in enumerate(sizes)]
    dealt = [cutting.deal(blocks, index, count) for index in range(count)]
    names = [block.name for part in dealt for block in part]
    assert sorted(names) == sorted(block.name for block in blocks)
    loads = [sum(block.bytes for block in part) for part in dealt]
    assert max(loads) - min(loads) <= 0.02 * sum(loads)


def test_all_that_does_not_fit_is_named(tmp_path):
    state = small_state()
    path = save(tmp_path, 1, state, {}, eager())
    other = zeros(state)
    del other["model/count"]
    other["model/new"] = torch.zeros(2)
    other["model/weight"] = torch.zeros(7, 6)
    other["model/half"] = torch.zeros(3, 3)
    with pytest.raises(UserError) as raised:
        Checkpoint.open(path).restore(other, eager())
    message = str(raised.value)
    for part in (
        "model/new is not in it",
        "model/count has no place in this run",
        "model/weight is [7, 5], here [7, 6]",
        "model/half is F16, here F32",
    ):
        assert part in message


def test_many_problems_are_counted(tmp_path):
    path = save(tmp_path, 1, {f"a{i}": torch.zeros(1) for i in range(20)}, {}, eager())
    with pytest.raises(UserError, match="and 12 more"):
        Checkpoint.open(path).restore({}, eager())


def test_a_part_is_loaded_only_if_asked_for_and_the_rest_is_reported(tmp_path):
    state = small_state()
    checkpoint = Checkpoint.open(save(tmp_path, 1, state, {}, eager()))
    here = zeros({name: value for name, value in state.items() if name != "model/count"})
    here["model/new"] = torch.zeros(3)
    loaded = checkpoint.restore(here, eager(), ["model/*"], ["model/new", "model/half"])
    assert loaded.taken == ("model/weight", "model/kernel", "model/brain", "model/flags", "model/none")
    assert loaded.left == ("optim/net/weight/step", "model/half", "ema/net/weight", "model/new")
    assert set(loaded.unused) == {"optim/net/weight/step", "model/count", "model/half", "ema/net/weight"}
    for name, value in here.items():
        expected = state[name] if name in loaded.taken else torch.zeros_like(value)
        assert torch.equal(value, expected), name
    with pytest.raises(UserError, match="model/new is not in it"):
        checkpoint.restore(here, eager(), ["model/*"])
    with pytest.raises(UserError, match=r"no tensor of this run is called modle/\*"):
        checkpoint.restore(here, eager(), ["model/weight", "modle/*"])


def test_what_is_unfinished_is_absent_and_what_lost_its_marker_is_not(tmp_path):
    state = small_state()
    save(tmp_path, 1, state, {}, eager())
    unfinished = tmp_path / ".step-00000002.tmp"
    unfinished.mkdir()
    (unfinished / "pieces-00000-000.safetensors").write_bytes(b"half")
    assert latest(tmp_path).step == 1  # type: ignore[union-attr]
    path = save(tmp_path, 2, state, {}, eager())
    assert not unfinished.exists()
    assert latest(tmp_path).step == 2  # type: ignore[union-attr]
    Path(path, "complete.json").unlink()
    assert [place.rpartition("/")[2] for place in checkpoints(tmp_path)] == ["step-00000001"]
    with pytest.raises(CheckpointDamaged, match=r"step-00000002/complete\.json: is missing.* `raexla ckpt rm "):
        latest(tmp_path)


def test_saving_a_step_again_replaces_it(tmp_path):
    for who in ("first", "second"):
        save(tmp_path, 5, small_state(), {"who": who}, eager())
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]
    assert latest(tmp_path).meta["who"] == "second"  # type: ignore[union-attr]


def test_no_checkpoint(tmp_path):
    assert latest(tmp_path / "nowhere") is None
    assert latest(tmp_path) is None
    with pytest.raises(UserError, match=r"is not a checkpoint, or was never finished: it has no complete\.json"):
        Checkpoint.open(tmp_path)
    with pytest.raises(UserError, match="there is no such checkpoint"):
        Checkpoint.open(tmp_path / "step-00000001")


def test_another_format_is_refused(tmp_path):
    path = Path(save(tmp_path, 1, small_state(), {}, eager()))
    marker = json.loads((path / "complete.json").read_text())
    (path / "complete.json").write_text(json.dumps(marker | {"format": 7}))
    with pytest.raises(UserError, match="has checkpoint format 7, this program reads 2"):
        latest(tmp_path)
    (path / "complete.json").unlink()
    (path / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="has checkpoint format 1, this program reads 2"):
        latest(tmp_path)


class OneOfMany(EagerRuntime):
    """Holds rows 10 to 15 of every matrix only, as one host of a pod does."""

    def __init__(self) -> None:
        super().__init__(EagerRecipe(device="cpu"), MeshRecipe())
        self.got: dict[int, torch.Tensor] = {}

    def parts(self, tensor: torch.Tensor) -> list[Part]:
        return [Part((slice(10, 15), slice(0, tensor.shape[1])), torch.empty(5, tensor.shape[1]))]

    def take(self, tensor: torch.Tensor, parts: Sequence[Part]) -> None:
        self.got[id(tensor)] = parts[0].into


def test_only_what_the_devices_of_this_process_hold_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(cutting.cut, "__defaults__", (4 * 8 * 30,))  # blocks of 8 rows
    monkeypatch.setattr(reading, "SPAN_BYTES", 1)
    state = {f"model/{n}": torch.randn(100, 30) for n in range(3)}
    checkpoint = Checkpoint.open(save(tmp_path, 1, state, {}, eager()))
    spans, read_into = [], Store.read_into

    def counted(self: Store, name: str, start: int, buffer: memoryview) -> None:
        spans.append(len(buffer))
        read_into(self, name, start, buffer)

    monkeypatch.setattr(Store, "read_into", counted)
    runtime = OneOfMany()
    fresh = zeros(state)
    checkpoint.restore(fresh, runtime)
    for name, value in state.items():
        assert torch.equal(runtime.got[id(fresh[name])], value[10:15])
    assert spans == [4 * 8 * 30] * 3, "one block of 8 rows of each matrix holds rows 10 to 15"
