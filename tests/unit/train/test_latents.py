"""Latents made ahead: what stands in the shards, how they come about, and what is refused."""

import io
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from raexla.data import Refused
from raexla.data.latents import pack_latent, unpack_latent
from raexla.data.shards import ReshardRecipe, ShardSet, peek, reshard, stats, stats_lines, verify
from raexla.models.codecs import CodecRecipe, RAECodecRecipe
from raexla.recipe import BadDataError, UserError
from raexla.runtime import EagerRecipe, MeshRecipe, open_runtime
from raexla.sampling.codec import open_codec
from raexla.train.latents import run as run_module
from raexla.train.latents.run import LatentsRun, Storing
from tests import stages
from tests.unit.train import latent_world


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return latent_world.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def latents(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of captions and questions, float32."""
    root = tmp_path_factory.mktemp("latents")
    latent_world.store(latent_world.recipe(made, root), root / "out")
    return root / "out"


def test_members_are_safetensors_that_others_write_and_read():
    latent = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32) * 3
    for stored, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        data = pack_latent(latent, stored)
        theirs = safetensors.torch.load(data)["latent"]
        assert theirs.dtype == dtype
        expected = torch.from_numpy(latent).to(dtype)
        assert torch.equal(theirs, expected)  # rounded to the nearest, as torch does
        back = unpack_latent(safetensors.torch.save({"latent": expected}))
        assert back.dtype == (np.float16 if stored == "float16" else np.float32)
        np.testing.assert_array_equal(back.astype(np.float32), expected.float().numpy())


def test_what_is_no_latent_is_refused_and_what_does_not_fit_is_said():
    good = pack_latent(np.ones((2, 3), np.float32), "float16")
    flat = safetensors.torch.save({"latent": torch.zeros(4)})
    other = safetensors.torch.save({"weight": torch.zeros(2, 3)})
    for bad in (b"", good[:-1], good + b"x", b"\xff" * 40, flat, other, good.replace(b"F16", b"F17")):
        with pytest.raises(Refused, match="bad_latent"):
            unpack_latent(bad)
    with pytest.raises(ValueError, match="values up to 70000 are not finite as float16"):
        pack_latent(np.full((1, 1), 7e4, np.float32), "float16")
    pack_latent(np.full((1, 1), 7e4, np.float32), "bfloat16")


def test_each_latent_is_its_pictures_own_and_all_else_is_untouched(made, latents):
    codec = open_codec(RAECodecRecipe.model_validate(stages.pretrain(made, "run")["codec"])).codec
    pictures, stored = ShardSet(made["pretrain"]), ShardSet(str(latents / "captions"))
    assert [(s.name, s.samples) for s in stored.index.shards] == [(s.name, s.samples) for s in pictures.index.shards]
    refused = {}
    for shard, entry in enumerate(pictures.index.shards):
        for row in range(entry.samples):
            there, here = pictures.read(shard, row), stored.read(shard, row)
            assert stored.key(shard, row) == pictures.key(shard, row)
            assert {name: here[name] for name in ("txt", "json")} == {name: there[name] for name in ("txt", "json")}
            assert set(here) - {"txt", "json"} in ({"latent.safetensors"}, {"refused.json"})
            number = json.loads(there["json"])["number"]
            if "refused.json" in here:
                refused[number] = json.loads(here["refused.json"])["reason"]
            elif number % 9 == 0:
                with Image.open(io.BytesIO(there["png"])) as image:  # one at a time, by another way
                    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255.0
                expected = codec.encode(pixels)[0].numpy()
                np.testing.assert_allclose(unpack_latent(here["latent.safetensors"]), expected, atol=2e-5)
    assert refused == {5: "not_an_image", 17: "truncated_image", 40: "empty_image"}
    named = [json.loads(line) for line in (latents / "captions" / "left-out.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in named] == ["not_an_image", "truncated_image", "empty_image"]
    assert all(row["name"].startswith("part/captions-0000") for row in named)


def test_verbs_on_shards_show_latents(made, latents, tmp_path):
    folder = str(latents / "captions")
    assert verify(folder, decode=True).problems == []
    said = "\n".join(stats_lines(stats(folder)))
    assert "pictures     float32 16x24 57" in said
    assert "would be refused: not_an_image 1" in said
    sheet = np.asarray(peek(folder, count=8))
    colours = len(np.unique(sheet.reshape(-1, 3), axis=0))
    assert colours > 8 * 10, "latents are drawn in false colours"
    damaged = tmp_path / "damaged"
    shutil.copytree(latents / "questions", damaged)
    shard = next(damaged.rglob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[data.index(b"data_offsets")] = ord("D")
    shard.write_bytes(bytes(data))
    assert "its bytes were changed" in verify(str(damaged)).problems[0]


def test_a_part_that_is_resharded_still_trains(made, latents, tmp_path):
    part = tmp_path / "part" / "captions"
    reshard(str(latents / "captions"), str(part), ReshardRecipe(every=2, samples_per_shard=7))
    shutil.copytree(latents / "questions", tmp_path / "part" / "questions")
    task, runtime = stages.open_stage(latent_world.recipe(made, tmp_path, tmp_path / "part"))
    assert stages.run_steps(task, runtime, 1).losses[0] > 0


class _Stop(BaseException):
    """As a kill: nothing catches it."""


def test_a_stop_at_any_shard_gives_the_same_bytes(made, latents, tmp_path, monkeypatch):
    values, out = latent_world.recipe(made, tmp_path), tmp_path / "out"
    finish, begun = run_module._Making.finish, []

    def stopping(self: Any, folder: Any) -> Any:
        begun.append(self.number)
        if len(begun) in (2, 4, 5):
            (Path(folder.folder) / "part").mkdir(exist_ok=True)
            (Path(folder.folder) / self.name).write_bytes(b"half a shard")
            raise _Stop
        return finish(self, folder)

    monkeypatch.setattr(run_module._Making, "finish", stopping)
    for _ in range(3):
        with pytest.raises(_Stop):
            latent_world.store(values, out, "captions")
        with pytest.raises(UserError, match="aren't complete"):
            stages.open_stage(latent_world.recipe(made, tmp_path, out))[0].open_loader(None)
    latent_world.store(values, out, "captions")
    assert len(begun) == 5 + 3, "what is noted is not made again"  # 5 shards, three of them stopped once
    assert latent_world.contents(out / "captions") == latent_world.contents(latents / "captions")
    report = latent_world.store(values, out, "captions")[0].report
    assert (report.complete_already, report.samples, sum(report.counts.values())) == (True, 60, 3)
    assert len(begun) == 8


class _OneOf:
    """A process of several, as threads: an eager runtime that knows the others."""

    def __init__(self, index: int, shared: list[Any], barrier: threading.Barrier) -> None:
        self.own = open_runtime(EagerRecipe(device="cpu"), MeshRecipe(data=None, fsdp=1))
        self.process_index, self.process_count, self.device_count = index, len(shared), len(shared)
        self._shared, self._barrier = shared, barrier

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def exchange(self, value: Any) -> list[Any]:
        self._barrier.wait()
        self._shared[self.process_index] = json.loads(json.dumps(value))
        self._barrier.wait()
        return list(self._shared)

    def barrier(self) -> None:
        self._barrier.wait()


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_share_the_shards_and_write_the_same_bytes(count, made, latents, tmp_path):
    recipe = stages.resolve(latent_world.recipe(made, tmp_path))
    barrier, shared = threading.Barrier(count, timeout=120), [None] * count
    wrote: dict[int, int] = {}

    def process(index: int) -> None:
        codec: CodecRecipe = recipe.codec  # type: ignore[attr-defined]
        runtime: Any = _OneOf(index, shared, barrier)
        run = LatentsRun(open_codec(codec), recipe.transform, runtime, Storing("float32", batch_images=8))  # type: ignore[attr-defined]
        ticks: list[int] = []
        run.run(recipe.data.sources[0], str(tmp_path / "out"), lambda what, samples: ticks.append)
        wrote[index] = sum(ticks)

    threads = [threading.Thread(target=process, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wrote.values()) == 60
    assert min(wrote.values()) > 0
    assert latent_world.contents(tmp_path / "out") == latent_world.contents(latents / "captions")


def test_refusals_before_anything_is_made(made, tmp_path):
    values = latent_world.recipe(made, tmp_path)
    crop = {"type": "random_crop", "size": 32}
    for changes, said in (
        ({"transform": crop}, "random_crop: it gives another picture each time"),
        ({"transform": {"type": "squash", "size": 40}}, "transform.size is 40, the codec takes images of 32"),
    ):
        with pytest.raises(UserError, match=said):
            latent_world.store(values | changes, tmp_path / "out")
    with pytest.raises(UserError, match="--source x: the recipe has no such source; it has captions, questions"):
        latent_world.store(values, tmp_path / "out", "x")
    with pytest.raises(UserError, match="where the pictures of captions are"):
        latent_world.store(values, Path(made["pretrain"]) / "latents")
    with pytest.raises(UserError, match="stage decoder doesn't train on latents"):
        latent_world.store(stages.decoder(made | {"decoder": made["pretrain"]}, tmp_path), tmp_path / "out")
    strict = values | {"data": values["data"] | {"loader": {"max_bad_fraction": 0.01}}}
    with pytest.raises(BadDataError, match="2 of 26 pictures can't be used, more than the 1%"):
        latent_world.store(strict, tmp_path / "strict")


def test_a_folder_made_otherwise_is_left_alone(made, latents, tmp_path):
    values, out = latent_world.recipe(made, tmp_path), tmp_path / "out"
    shutil.copytree(latents, out)
    with pytest.raises(UserError, match=r"dtype float32 instead of float16.*or --overwrite"):
        latent_world.store(values, out, "questions", dtype="float16")
    latent_world.store(values, out, "questions", dtype="float16", keep_pixels=True, overwrite=True)
    members = ShardSet(str(out / "questions")).read(0, 0)
    assert {"png", "json", "latent.safetensors"} <= set(members)
    assert unpack_latent(members["latent.safetensors"]).dtype == np.float16
    with pytest.raises(UserError, match="captions holds latents already"):
        latent_world.store(latent_world.recipe(made, tmp_path, out), tmp_path / "again")


def _on_devices(values: dict[str, Any], out: str) -> list[int]:
    """The recipe's latents on the virtual devices that it asks for; compilations after each source."""
    recipe = stages.resolve(values)
    opened = open_codec(recipe.codec)  # type: ignore[attr-defined]
    runtime: Any = open_runtime(recipe.runtime, MeshRecipe(data=None, fsdp=1))
    runtime.place(opened.codec)
    run = LatentsRun(opened, recipe.transform, runtime, Storing("float32", batch_images=2))  # type: ignore[attr-defined]
    found = []
    for source in recipe.data.sources:
        run.run(source, f"{out}/{source.name}", lambda what, samples: lambda more: None)
        found.append(runtime.counters().compilations)
    return found


def test_four_devices_give_the_same_latents_with_one_compilation(made, latents, in_process, tmp_path):
    values = latent_world.recipe(made, tmp_path)
    values["runtime"] = {"type": "xla", "platform": "cpu", "devices": 4}
    assert in_process(_on_devices, values, str(tmp_path / "out")) == [1, 1]
    here, there = ShardSet(str(tmp_path / "out" / "captions")), ShardSet(str(latents / "captions"))
    assert here.index.order_hash == there.index.order_hash
    for shard, entry in enumerate(here.index.shards):
        for row in range(entry.samples):
            mine, theirs = (shards.read(shard, row).get("latent.safetensors") for shards in (here, there))
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                np.testing.assert_allclose(unpack_latent(mine), unpack_latent(theirs), atol=3e-5)


def _killed(values: dict[str, Any], out: str) -> None:
    """`raexla latents` up to SIGKILL, which comes as the third shard is to be written."""
    finish = run_module._Making.finish

    def finish_or_die(self: Any, folder: Any) -> Any:
        if self.number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(self, folder)

    run_module._Making.finish = finish_or_die  # type: ignore[method-assign]
    latent_world.store(values, Path(out), "captions")


@pytest.mark.slow
def test_a_killed_command_goes_on(made, latents, in_process, tmp_path):
    values, out = latent_world.recipe(made, tmp_path), tmp_path / "out"
    with pytest.raises(AssertionError, match=r"failed \(-9\)"):
        in_process(_killed, values, str(out))
    left = sorted(path.name for path in (out / "captions").rglob("*") if path.is_file())
    assert "captions-00001.tar" in left
    assert "index.json" not in left
    latent_world.store(values, out, "captions")
    assert latent_world.contents(out / "captions") == latent_world.contents(latents / "captions")


def test_the_verb_says_what_it_made(made, tmp_path, capsys):
    from raexla.cli import main

    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(latent_world.recipe(made, tmp_path)))  # JSON is YAML
    out = tmp_path / "out"
    command = ["latents", str(file), "--out", str(out), "--batch", "8", "--processes", "1"]
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out}/captions:"
    assert said[1].startswith("60 samples in 5 shards, ")
    assert "kept without a latent, empty_image: 1: part/captions-00003/pretrain-0000040" in said
    assert (
        "57 latents of 16 tokens x 24 channels, float16: 768 bytes each; rounding adds an error of 2.1e-04" in said[6]
    )
    source = f"{{name: captions, path: {out}/captions, kind: caption, weight: 2, latents: float16}}"
    assert said[7] == f"in a recipe: {source}"
    assert main([*command, "--dtype", "float32"]) == 2
    assert "dtype float16 instead of float32; choose another --out, or --overwrite" in capsys.readouterr().err
    assert main(["latents", str(file), "--out", str(out), "--set", "transform.size=48"]) == 2
    assert "transform.size is 48, the codec takes images of 32" in capsys.readouterr().err
