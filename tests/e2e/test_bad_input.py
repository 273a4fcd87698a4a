"""What a user may get wrong, through the command line: one line that says what and where, exit code 2, no traceback."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raexla import cli
from raexla.checkpoint.files import read_json
from raexla.data.nano.samples import samples
from raexla.data.nano.write import members_of
from raexla.data.shards import ShardWriter
from raexla.obs.metrics import read_metrics
from tests import stages, tiny

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny nano world, a decoder's and a model's artifact, another encoder."""
    root = tmp_path_factory.mktemp("world")
    made = stages.world(root)
    task, _ = stages.open_stage(stages.decoder(made, root / "run"))
    task.export(root / "decoder_artifact", {})
    made |= {"decoder_artifact": str(root / "decoder_artifact"), "model": str(stages.save_model(made, root / "start"))}
    return made | {"other_encoder": str(tiny.encoder(root / "other", seed=1))}


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`train(values, *options)` -> exit code and the lines on stderr, the progress bar left out."""

    def run(values: dict[str, Any], *options: str) -> tuple[int, list[str]]:
        (tmp_path / "recipe.yaml").write_text(json.dumps(values))
        code = cli.main(["train", str(tmp_path / "recipe.yaml"), *options])
        err = capsys.readouterr().err
        assert "Traceback" not in err, err
        return code, err.splitlines()

    return run


def _changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a dotted path replaced."""
    values = json.loads(json.dumps(values))
    *where, last = path.split(".")
    place: Any = values
    for key in where:
        place = place[int(key)] if key.isdigit() else place[key]
    place[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.stepz", 5, r"recipe\.yaml:\d+: train\.stepz: unknown key; did you mean 'steps'\?"),
        ("train.steps", "many", r"recipe\.yaml:\d+: train\.steps: is 'many', must be a whole number"),
        ("optim.dit.lr", -1, r"recipe\.yaml:\d+: optim\.dit\.lr: .*greater than 0"),
        ("stage", "pretrane", r"recipe\.yaml:\d+: stage: unknown stage 'pretrane'; did you mean 'pretrain'\?"),
        ("codec.encoder.path", "/no/such/encoder", "/no/such/encoder"),
        ("codec.encoder.channels", 48, "this encoder is 24 wide, the recipe asks for channels: 48"),
        ("model.llm.path", "/no/such/model", "/no/such/model"),
        ("model.llm.queries", 9, r"9 queries, but the DiT conditions 16 tokens .*set queries: 16"),
        ("transform.size", 64, "transform.size is 64, the codec takes images of 32"),
        ("optim.dit.schedule", {"min_lr": 1.0}, r"optim\.dit: schedule.min_lr 1 is over lr 0.002, where it comes down"),
        (
            "eval",
            {"sources": [{"name": "pairs", "path": "nowhere", "kind": "caption"}]},
            r"eval\.sources: none is of the group 'understanding' \(kind conversation or text\), which data\.sources",
        ),
        ("train.accumulate", 5, r"global_batch_images 24 does not divide by accumulate 5"),
        ("mesh", {"tensor": 2}, "mesh.tensor is 2: the eager runtime splits batches only"),
    ],
)
def test_a_recipe_that_cannot_be(path, value, message, made, train, tmp_path):
    code, lines = train(_changed(stages.pretrain(made, tmp_path / "run"), path, value))
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "run").exists()


def test_a_missing_recipe(capsys, tmp_path):
    assert cli.main(["train", str(tmp_path / "nothing.yaml")]) == 2
    assert capsys.readouterr().err.startswith(f"error: no recipe {tmp_path}/nothing.yaml")


def test_a_missing_folder_of_shards(made, train, tmp_path):
    values = _changed(stages.pretrain(made, tmp_path / "run"), "data.sources.0.path", f"{tmp_path}/absent")
    code, lines = train(values)
    assert code == 2
    assert lines[-1].startswith("error: ")
    assert f"{tmp_path}/absent: there is no such folder; `raexla shards pack FOLDER --out DIR` makes one" in lines[-1]


def test_a_folder_without_shards(made, train, tmp_path):
    (tmp_path / "empty").mkdir()
    code, lines = train(_changed(stages.pretrain(made, tmp_path / "run"), "data.sources.0.path", f"{tmp_path}/empty"))
    assert code == 2
    assert f"{tmp_path}/empty: no data in its 0 files: looked for index.json, wds_manifest.json, *.tar" in lines[-1]
    assert lines[-1].endswith("`raexla shards pack FOLDER --out DIR` makes shards")


def test_an_artifact_of_another_encoder(made, train, tmp_path):
    codec = {
        "type": "rae",
        "encoder": {"type": "siglip2", "path": made["other_encoder"]},
        "weights": {"path": made["decoder_artifact"]},
    }
    code, lines = train(stages.pretrain(made, tmp_path / "run", codec=codec))
    assert (code, len(lines)) == (2, 1)
    assert re.search(r"^error: codec\.weights: .* made for encoder \w{64}, but this recipe has \w{64}$", lines[0])


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("decoder_artifact", "is an artifact of kind decoder, a model is needed"),
        ("encoder", r"is not an artifact: it has no artifact\.json"),
    ],
)
def test_finetuning_from_something_else(init, message, made, train, tmp_path):
    code, lines = train(stages.finetune(made, tmp_path / "run", made[init]))
    assert (code, len(lines)) == (2, 1)
    assert re.search(f"^error: init: .*{message}$", lines[0])


def test_finetuning_with_another_encoder(made, train, tmp_path):
    codec = {"type": "rae", "encoder": {"type": "siglip2", "path": made["other_encoder"]}}
    code, lines = train(stages.finetune(made, tmp_path / "run", made["model"], codec=codec))
    assert (code, len(lines)) == (2, 1)
    assert "was made for encoder" in lines[0]


def test_a_directory_that_is_no_run(made, train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    for options in ([], ["--fresh"]):
        code, lines = train(stages.pretrain(made, tmp_path / "run"), *options)
        assert code == 2
        assert lines[-1].endswith("is not empty and holds no run: choose another directory")
    assert (tmp_path / "run" / "thesis.tex").exists()


def test_a_device_count_that_does_not_divide_the_batch(made, tmp_path):
    """In a process of its own: the number of devices is fixed when the XLA client starts."""
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(stages.pretrain(made, tmp_path / "run")))
    command = [
        sys.executable,
        "-m",
        "raexla",
        "train",
        str(file),
        "--set",
        "runtime={type: xla, platform: cpu, devices: 5}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said == [
        "error: train.global_batch_images 24 does not divide by accumulate 1 x 5 batch shards (data x fsdp); the next "
        "that does is 25"
    ]
    assert "Traceback" not in done.stderr


def _damaged(folder: Path, count: int, bad: Callable[[int], bool]) -> str:
    """Shards of captioned scenes some of whose PNGs are cut in the middle."""
    with ShardWriter(str(folder), samples_per_shard=64) as writer:
        for index, sample in enumerate(samples("pretrain", count)):
            members = members_of(sample)
            if bad(index):
                members["png"] = members["png"][: len(members["png"]) // 2]
            writer.write(sample.key, members)
    return str(folder)


def test_truncated_pictures_are_skipped_counted_and_named(made, train, tmp_path):
    path = _damaged(tmp_path / "shards", 96, lambda index: index in (7, 40))
    values = stages.pretrain(made, tmp_path / "run", train={"steps": 6, "global_batch_images": 24})
    code, _ = train(_changed(values, "data.sources.0.path", path))
    assert code == 0
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == list(range(1, 7))
    named = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {entry["reason"] for entry in named} == {"truncated_image"}
    assert {entry["uid"].rpartition("/")[2] for entry in named} == {"pretrain-0000007", "pretrain-0000040"}
    assert read_json(tmp_path / "run" / "run.json")["step"] == 6


def test_too_much_bad_data_ends_with_3(made, train, tmp_path):
    path = _damaged(tmp_path / "shards", 96, lambda index: index % 3 == 0)
    values = stages.pretrain(made, tmp_path / "run", train={"steps": 30, "global_batch_images": 24})
    code, lines = train(_changed(values, "data.sources.0.path", path))
    assert code == 3
    assert lines[-1].startswith("error: ")
    refused = re.search(r"source pretrain: (\d+) of the \d+ samples read were refused, more than the 5\.0%", lines[-1])
    assert refused
    named = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert len(named) == int(refused[1]), "also those that no batch brought are named"
