"""Whatever is done to any file of a checkpoint is noticed, with the file's name; a restore never goes through."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raexla.checkpoint import Checkpoint, CheckpointRecipe, latest, open_saver
from raexla.checkpoint.verbs import verify
from raexla.recipe import BadDataError, UserError
from tests.unit.checkpoint.worlds import SplitRuntime, eager, small_state, zeros

CASES = 60
"""Mutations of each kind, of each file."""


def flip(data: bytes, rng: random.Random) -> bytes:
    """One bit."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))]


def extend(data: bytes, rng: random.Random) -> bytes:
    """Something stands at the end."""
    return data + rng.choice([b"\0", b" ", b"\n", rng.randbytes(rng.randrange(1, 200))])


def blank(data: bytes, rng: random.Random) -> bytes:
    """A stretch is zeros, as after a lost disk block."""
    while True:
        at, count = rng.randrange(len(data)), rng.randrange(1, 64)
        changed = data[:at] + bytes(len(data[at : at + count])) + data[at + count :]
        if changed != data:
            return changed


def move(data: bytes, rng: random.Random) -> bytes:
    """Two bytes have changed places."""
    while True:
        low, high = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
        if data[low] != data[high]:
            return data[:low] + data[high : high + 1] + data[low + 1 : high] + data[low : low + 1] + data[high + 1 :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of several files each."""
    root = tmp_path_factory.mktemp("checkpoints")
    saver = open_saver(root, SplitRuntime(), CheckpointRecipe(file_mib=1))
    for step in (1, 2):
        saver.save(step, small_state(step), {"cursor": {"at": step}}, {"loss": 1.5})
    saver.close()
    return root


@pytest.fixture
def put_back(folder: Path) -> Iterator[Path]:
    """The newer checkpoint, which is as it was again afterwards."""
    path = folder / "step-00000002"
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    yield path
    for name, data in before.items():
        (path / name).write_bytes(data)


def refused(path: Path) -> str:
    """What a restore says; fails if it goes through."""
    fresh = zeros(small_state())
    with pytest.raises((UserError, BadDataError)) as raised:
        Checkpoint.open(path).restore(fresh, eager())
    return str(raised.value)


def names(path: Path) -> list[str]:
    """All files of a checkpoint."""
    found = sorted(file.name for file in path.iterdir())
    assert found == ["complete.json", "manifest.json", "pieces-00000-000.safetensors"]
    return found


@pytest.mark.parametrize("mutate", [flip, cut, extend, blank, move])
def test_every_mutation_of_every_file_is_caught(mutate: Callable[[bytes, random.Random], bytes], put_back):
    rng = random.Random(mutate.__name__)
    for name in names(put_back):
        data = (put_back / name).read_bytes()
        for _ in range(CASES):
            (put_back / name).write_bytes(mutate(data, rng))
            said = refused(put_back)
            assert name in said, said
            with pytest.raises((BadDataError, UserError)) as raised:
                verify([str(put_back)])
            assert name in str(raised.value), str(raised.value)
        (put_back / name).write_bytes(data)
    Checkpoint.open(put_back).restore(zeros(small_state()), eager())


def test_a_missing_file_is_named(put_back):
    for name in names(put_back):
        data = (put_back / name).read_bytes()
        (put_back / name).unlink()
        said = refused(put_back)
        assert f"{put_back}/{name}" in said
        with pytest.raises(BadDataError, match=name):
            verify([str(put_back)])
        with pytest.raises(UserError, match=name):
            latest(put_back.parent).restore(zeros(small_state()), eager())  # type: ignore[union-attr]
        (put_back / name).write_bytes(data)


def test_files_of_another_checkpoint_are_noticed(put_back, folder):
    other = folder / "step-00000001"
    for name in names(put_back):
        data = (put_back / name).read_bytes()
        (put_back / name).write_bytes((other / name).read_bytes())
        assert "sha256" in (said := refused(put_back)) or "does not say" in said
        (put_back / name).write_bytes(data)
    for file in other.iterdir():  # all of them: a whole checkpoint, but not this step's
        (put_back / file.name).write_bytes(file.read_bytes())
    assert "manifest.json: is of step 1" in refused(put_back)


def test_two_files_that_have_changed_places_are_noticed(put_back):
    found = names(put_back)
    for one in found:
        for other in found:
            if one < other:
                first, second = (put_back / one).read_bytes(), (put_back / other).read_bytes()
                (put_back / one).write_bytes(second)
                (put_back / other).write_bytes(first)
                said = refused(put_back)
                assert one in said or other in said
                (put_back / one).write_bytes(first)
                (put_back / other).write_bytes(second)


def test_only_what_is_needed_is_read(put_back):
    """Damage in what nobody asks for does not stop a partial load, and is found by verify."""
    checkpoint = Checkpoint.open(put_back)
    piece = checkpoint.manifest["tensors"]["ema/net/weight"]["pieces"][0]
    file = put_back / piece["file"]
    data = bytearray(file.read_bytes())
    data[piece["start"]] ^= 1
    file.write_bytes(data)
    checkpoint.restore(zeros(small_state()), eager(), ["model/*"])
    with pytest.raises(UserError, match="sha256 of ema/net/weight@0,0 differs"):
        checkpoint.restore(zeros(small_state()), eager())
    with pytest.raises(BadDataError, match=r"pieces-00000-000\.safetensors: sha256 differs in ema/net/weight@0,0"):
        verify([str(put_back.parent)])
