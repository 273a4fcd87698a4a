"""`raexla stats`: numpy's numbers, whatever the batches and processes, as an artifact that codecs take."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from raexla import cli
from raexla.checkpoint import read_artifact, write_artifact
from raexla.data.shards import pack
from raexla.eval.latent_statistics import StatisticsRecipe, StatisticsRun, open_unnormalised
from raexla.eval.pictures import open_pictures
from raexla.recipe import ArtifactReference, UserError
from raexla.runtime import EagerRecipe, open_runtime
from raexla.sampling.codec import open_codec
from raexla.sampling.named_codec import find_codec
from tests.harness import in_process
from tests.unit.eval.codecs_on_disk import save_aligntok, save_rae
from tests.unit.eval.test_frechet import Lockstep
from tests.unit.sampling.tiny import save_encoder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_encoder(tmp_path / "encoder")
    made = pictures(Path("in"), 10)
    Path("codec.yaml").write_text(yaml.safe_dump({"codec": CODEC}))
    return made


CODEC = {"type": "rae", "encoder": {"type": "siglip2", "path": "encoder"}}


def pictures(folder: Path, count: int) -> np.ndarray:
    folder.mkdir()
    made = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    for number, pixels in enumerate(made):
        Image.fromarray(pixels).save(folder / f"p{number:02d}.png")
    return made


def latents(made: np.ndarray) -> np.ndarray:
    """float64 [n, N, C], by the encoder alone."""
    codec = open_codec(find_codec("codec.yaml", draws=False)).codec
    return codec.encode(torch.from_numpy(made).permute(0, 3, 1, 2).float() / 255).double().numpy()


def stats(*arguments: str, code: int = 0) -> None:
    assert cli.main(["stats", "--runtime", "eager", "--codec", "codec.yaml", "--out", "out", *arguments]) == code


def stored() -> tuple[dict, dict, dict]:
    artifact = read_artifact(ArtifactReference(path="out"), "statistics", "")
    return artifact.weights(), dict(artifact.facts), dict(artifact.meta)


def test_they_are_numpys_and_the_codec_takes_them(here, capsys):
    stats("in", "--images", "10", "--batch", "4")
    said = capsys.readouterr().out
    assert said.startswith("10 images; 4 x 4 tokens x 24 channels, of each token and channel: mean -")
    assert "for recipes, codec.statistics: {path: out}; out/artifact.json: its protocol" in said
    arrays, facts, meta = stored()
    expected = latents(here)
    np.testing.assert_allclose(arrays["mean"], expected.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(arrays["var"], expected.var(0), rtol=1e-4)
    assert (facts["grid"], facts["channels"], facts["images"], facts["per"]) == ([4, 4], 24, 10, "token")
    assert meta["protocol"]["transform"]["size"] == 32
    normalised = open_codec(find_codec("codec.yaml", draws=False).model_copy(
        update={"statistics": ArtifactReference(path="out")}
    ))  # fmt: skip
    latent = normalised.codec.encode(torch.from_numpy(here).permute(0, 3, 1, 2).float() / 255)
    assert latent.mean(0).abs().max() < 1e-3
    v = expected.var(0)
    np.testing.assert_allclose(latent.var(0, correction=0).numpy(), v / (v + 1e-5), rtol=1e-3)
    assert normalised.facts["statistics"] is not None

    stats("in", "--images", "10", "--batch", "10", "--per", "channel")
    arrays, facts, other = stored()
    assert arrays["mean"].shape == (1, 24)
    np.testing.assert_allclose(arrays["var"][0], expected.reshape(-1, 24).var(0), rtol=1e-4)
    assert other["protocol"]["reference_sha256_sum"] == meta["protocol"]["reference_sha256_sum"]
    assert facts["per"] == "channel"
    stats("in", "--images", "5")  # every second one
    np.testing.assert_allclose(stored()[0]["mean"], expected[::2].mean(0), rtol=1e-4, atol=1e-5)
    assert stored()[2]["protocol"]["reference_sha256_sum"] != meta["protocol"]["reference_sha256_sum"]


def test_shards_and_other_codecs(here, tmp_path_factory):
    pack("in", "shards", kind="image")
    stats("shards", "in", "--images", "20", "--batch", "8")
    np.testing.assert_allclose(stored()[0]["var"], latents(here).var(0), rtol=1e-4)  # each picture twice
    run = save_rae(tmp_path_factory.mktemp("rae"))
    stats("in", "--images", "10", "--codec", str(run))  # a decoder's run: its encoder
    np.testing.assert_allclose(stored()[0]["mean"], latents(here).mean(0), rtol=1e-4, atol=1e-5)
    recipe = save_aligntok(tmp_path_factory.mktemp("aligntok"))
    opened = open_unnormalised(recipe)
    runtime = open_runtime(EagerRecipe())
    found = StatisticsRun(opened, "", runtime, StatisticsRecipe(images=10)).run(
        open_pictures(["in"]), Path("aligned"), lambda what, count: lambda done: None
    )
    assert found.moments.mean.shape[1] == recipe.channels
    taken = recipe.model_copy(update={"statistics": ArtifactReference(path="aligned")})
    assert open_codec(taken).facts["statistics"] == found.digest


def test_processes_add_up_to_one(here):
    """Two processes with shares of their own, one bad picture among them, against one process."""
    Path("in/p03.png").write_bytes(b"no picture")
    pictures(Path("more"), 30)
    sources = open_pictures(["in", "more"])
    recipe = StatisticsRecipe(images=39, batch_images=8)
    runtime = open_runtime(EagerRecipe())
    silent = lambda what, count: lambda done: None  # noqa: E731

    def run(of, out):
        opened = open_unnormalised(find_codec("codec.yaml", draws=False))
        return StatisticsRun(opened, "", of, recipe).run(sources, Path(out), silent)

    alone = run(runtime, "one")
    add, found = Lockstep(2), {}

    class Part:
        process_count = 2

        def __init__(self, index):
            self.process_index = index

        def __getattr__(self, name):
            return getattr(runtime, name)

        def sum_over_processes(self, value):
            return torch.from_numpy(add(value.numpy()))

    threads = [threading.Thread(target=lambda i=i: found.update({i: run(Part(i), "two")})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0].protocol["refused"] == found[1].protocol["refused"] == alone.protocol["refused"] == 1
    assert found[0].protocol["reference_sha256_sum"] == alone.protocol["reference_sha256_sum"]
    np.testing.assert_allclose(found[0].moments.mean, alone.moments.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[0].moments.variance, found[1].moments.variance)
    np.testing.assert_allclose(found[1].moments.variance, alone.moments.variance, rtol=1e-4)
    assert found[0].digest
    assert not found[1].digest


def on_xla(folder: str) -> list[str]:
    from raexla import cli

    arguments = ["stats", f"{folder}/in", "--codec", f"{folder}/codec.yaml", "--encoder", f"{folder}/encoder"]
    assert cli.main([*arguments, "--images", "10", "--batch", "3", "--devices", "2", "--out", f"{folder}/xla"]) == 0
    return sorted(path.name for path in Path(folder, "xla").iterdir())


def test_two_xla_devices_find_the_same(here):
    assert in_process(on_xla, str(Path.cwd())) == ["artifact.json", "model.safetensors"]
    artifact = read_artifact(ArtifactReference(path="xla"), "statistics", "")
    np.testing.assert_allclose(artifact.weights()["mean"], latents(here).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(artifact.weights()["var"], latents(here).var(0), rtol=1e-4)
    assert artifact.meta["protocol"]["devices"] == 2
    assert artifact.meta["protocol"]["batch_images"] == 4  # a multiple of the devices


def test_errors_are_one_line(here, capsys):
    Path("pixels.yaml").write_text("codec: {type: pixels, image_size: 32, patch_size: 8}\n")
    write_artifact(Path("decoder"), "decoder", {}, {}, {})
    capsys.readouterr()
    for arguments, line in (
        (["in", "--images", "11"], "--images 11, but there are 10 pictures in all; give more, or ask for fewer"),
        (["in", "--images", "9", "--codec", "pixels.yaml"], "a codec of type pixels takes no statistics"),
        (["in", "--images", "9", "--out", "in"], "in is not empty and holds no artifact.json of a former call"),
        (["in", "--images", "9", "--out", "decoder"], "--out: decoder is an artifact of kind decoder; choose another"),
        (["none", "--images", "9"], "none: there is no such file or folder"),
    ):
        stats(*arguments, code=2)
        assert line in " ".join(capsys.readouterr().err.split())
    Path("in/p03.png").write_bytes(b"no picture")
    stats("in", "--images", "10", code=3)
    said = capsys.readouterr().err
    assert "1 of 10 pictures can't be used, 10.0%, more than the 5%" in said
    assert "nothing is written: in/p03.png: not_an_image" in said
    assert not Path("out").exists()
    stats("in", "--images", "2", "--batch", "1")
    assert json.loads(Path("out/artifact.json").read_text())["facts"]["images"] == 2
    shutil.copytree("encoder", "other")
    config = json.loads(Path("other/config.json").read_text())
    Path("other/config.json").write_text(json.dumps({**config, "transformers_version": "0"}))
    codec = find_codec("codec.yaml", "other", draws=False).model_copy(
        update={"statistics": ArtifactReference(path="out")}
    )
    with pytest.raises(UserError, match="was made for encoder"):
        open_codec(codec)
