"""`raexla ckpt ls | verify | cp | rm | show`: what they print, what they refuse, and their exit codes."""

from pathlib import Path

import pytest

from raexla import cli
from raexla.checkpoint import BestRecipe, Checkpoint, CheckpointRecipe, checkpoints, open_saver
from raexla.files import Store
from tests.unit.checkpoint.worlds import assert_same, eager, small_state, zeros


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the checkpoints 2 (the best), 4 and 5."""
    recipe = CheckpointRecipe(keep=2, best=BestRecipe(metric="loss"))
    saver = open_saver(tmp_path / "run" / "checkpoints", eager(), recipe)
    for step, loss in ((1, 3.0), (2, 1.0), (4, 2.0), (5, 2.5)):
        meta = {"recipe": {"checkpoint": recipe.model_dump(mode="json")}, "cursor": {"at": step}}
        saver.save(step, small_state(step), meta, {"loss": loss})
    assert saver.close() is None
    return tmp_path / "run"


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What a verb prints: on stdout if it succeeds, else on stderr."""
    assert cli.main(["ckpt", *arguments]) == code
    out, err = capsys.readouterr()
    return (err if code else out).rstrip("\n")


def test_ls(run, capsys):
    lines = said(capsys, "ls", str(run)).splitlines()
    assert lines[0] == f"{run}/checkpoints"
    assert lines[1].split() == ["step", "saved", "(UTC)", "size", "kept", "because"]
    assert [line.split("KiB  ")[1] for line in lines[2:]] == ["best loss 1", "last 2", "newest"]
    assert [int(line.split()[0]) for line in lines[2:]] == [2, 4, 5]
    (run / "checkpoints" / "step-00000004" / "complete.json").unlink()
    (run / "checkpoints" / "step-00000002" / "complete.json").write_text("{")
    lines = said(capsys, "ls", str(run / "checkpoints")).splitlines()
    assert "damaged: complete.json can't be read" in lines[2]
    assert lines[3].endswith("damaged: no complete.json")
    assert "is no run and no `checkpoints` folder" in said(capsys, "ls", str(run.parent), code=2)


def test_verify(run, capsys):
    lines = said(capsys, "verify", str(run), str(run / "checkpoints" / "step-00000002")).splitlines()
    assert len(lines) == 4
    assert all(line.endswith("as they were written") for line in lines)
    file = run / "checkpoints" / "step-00000004" / "pieces-00000-000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (run / "checkpoints" / "step-00000005" / "pieces-00000-000.safetensors").unlink()
    lines = said(capsys, "verify", str(run), code=3).splitlines()
    assert lines[0] == "error: 2 problems"
    assert "step-00000004/pieces-00000-000.safetensors: sha256 differs in model/" in lines[1]
    assert "step-00000005/pieces-00000-000.safetensors: there is no such file" in lines[2]
    assert "step-00000002: step 2, 1 file, " in lines[3]
    assert "there is no such checkpoint" in said(capsys, "verify", str(run / "nothing"), code=2)


def test_cp_to_another_file_system_and_back(run, capsys, tmp_path):
    remote = "memory://copies/run/checkpoints"
    assert said(capsys, "cp", str(run), remote).startswith(f"{remote}/step-00000005: ")
    said(capsys, "cp", str(run / "checkpoints" / "step-00000002"), remote)
    assert len(checkpoints(remote)) == 2
    assert "is there already" in said(capsys, "cp", str(run), remote, code=2)
    said(capsys, "cp", f"{remote}/step-00000002", str(tmp_path / "back" / "checkpoints"))
    fresh = zeros(small_state())
    Checkpoint.open(tmp_path / "back" / "checkpoints" / "step-00000002").restore(fresh, eager())
    assert_same(fresh, small_state(2))
    assert "5" in said(capsys, "ls", remote).split()
    assert "name the folder or run to copy to" in said(capsys, "cp", str(run), f"{remote}/step-00000007", code=2)
    Store("memory://copies").remove_folder("")


@pytest.mark.parametrize("target", ["memory://spoilt/checkpoints", "local"])
def test_a_damaged_checkpoint_is_not_copied(target, run, capsys, tmp_path):
    target = str(tmp_path / "copy") if target == "local" else target
    file = run / "checkpoints" / "step-00000005" / "pieces-00000-000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    message = said(capsys, "cp", str(run), target, code=3)
    assert "not copied, since the copy is not what was written: pieces-00000-000.safetensors: sha256" in message
    assert Store(target).names() == []


def test_rm_leaves_one_unless_forced(run, capsys):
    folder = run / "checkpoints"
    assert said(capsys, "rm", str(folder / "step-00000002")) == f"removed {folder}/step-00000002"
    both = [str(folder / "step-00000004"), str(folder / "step-00000005")]
    assert "no complete checkpoint would be left to go on from; --force" in said(capsys, "rm", *both, code=2)
    assert len(checkpoints(folder)) == 2
    (folder / "step-00000005" / "complete.json").unlink()  # a damaged one can always go
    said(capsys, "rm", both[1])
    assert "no complete checkpoint would be left" in said(capsys, "rm", both[0], code=2)
    said(capsys, "rm", both[0], "--force")
    assert list(folder.iterdir()) == []
    assert "is not a checkpoint: they are called step-XXXXXXXX" in said(capsys, "rm", str(run), code=2)
    assert "there is no such checkpoint" in said(capsys, "rm", both[0], code=2)


def test_show(run, capsys):
    lines = said(capsys, "show", str(run)).splitlines()
    assert lines[0].startswith(f"{run}/checkpoints/step-00000005: checkpoint of step 5, saved ")
    assert lines[1].startswith("9 tensors, 128 numbers, ")
    assert lines[2] == "figures: loss 2.5"
    assert '  cursor: {"at": 5}' in lines
    lines = said(capsys, "show", "--tensors", str(run / "checkpoints" / "step-00000004")).splitlines()
    assert "  model/brain [5, 3] BF16, 1 piece" in lines
