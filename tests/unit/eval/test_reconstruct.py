"""`raexla reconstruct`: any picture through any codec, numbers with their protocol, bad files named, clear errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from raexla import cli
from raexla.checkpoint import read_artifact, write_artifact
from raexla.data.shards import pack
from raexla.eval.comparison import Pair, comparison_sheet, difference
from raexla.eval.pictures import open_pictures, read_pictures
from raexla.eval.reconstruct import Reconstructor, mean_of, measure
from raexla.models.codecs import LatentStatistics
from raexla.models.decoder import DecoderRecipe
from raexla.recipe import ArtifactReference, UserError
from raexla.runtime import EagerRecipe, open_runtime
from raexla.sampling.codec import aligntok_identity, as_tensors, open_codec
from raexla.sampling.named_codec import find_codec
from tests.unit.eval.codecs_on_disk import reconstructed_on_xla, save_aligntok, save_rae, save_statistics
from tests.unit.sampling.tiny import save_class_model, save_encoder, save_model

PIXELS = {"type": "pixels", "image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A run directory with a decoder, its encoder beside it."""
    return save_rae(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pixels.yaml").write_text(yaml.safe_dump({"codec": PIXELS}))
    return tmp_path


def save_pictures(folder: Path, count: int, size: int = 32) -> list[np.ndarray]:
    folder.mkdir(parents=True)
    made = [np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8) for number in range(count)]
    for number, pixels in enumerate(made):
        Image.fromarray(pixels).save(folder / f"p{number:02d}.png")
    return made


def run(*arguments: str, code: int = 0) -> dict:
    assert cli.main(["reconstruct", "--runtime", "eager", "--out", "out", *arguments]) == code
    return json.loads(Path("out/reconstruct.json").read_text())


def test_pictures_of_every_kind_come_upright_and_in_rgb(here):
    """The codec that loses nothing gives back exactly what the stated transform makes of a file."""
    Path("in/deep").mkdir(parents=True)
    square = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    turned = Image.fromarray(np.rot90(square))  # stored on its side; orientation 6 turns it back
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save("in/a-turned.png", exif=exif)
    grey = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    Image.fromarray(grey).save("in/b-sixteen.png")
    Image.new("CMYK", (80, 32), (0, 255, 255, 0)).save("in/c-wide.jpg")
    Image.new("RGBA", (32, 64), (0, 0, 0, 0)).save("in/deep/d-clear.png")
    Image.fromarray(square).convert("P").save("in/e-palette.gif")
    Path("in/notes.txt").write_text("no picture")
    result = run("in", "--codec", "pixels.yaml")
    entries = {entry["name"]: entry for entry in result["images"]}
    assert list(entries) == ["a-turned.png", "b-sixteen.png", "c-wide.jpg", "deep/d-clear.png", "e-palette.gif"]
    pixels = {name: np.asarray(Image.open(f"out/{entry['file']}")) for name, entry in entries.items()}
    assert np.array_equal(pixels["a-turned.png"], square)
    assert np.array_equal(pixels["b-sixteen.png"], np.repeat(np.rint(grey / 257)[..., None], 3, 2).astype(np.uint8))
    assert pixels["c-wide.jpg"].shape == (32, 32, 3)
    assert (pixels["c-wide.jpg"][..., 0] > 200).all()
    assert (pixels["c-wide.jpg"][..., 2] < 60).all()
    assert (pixels["deep/d-clear.png"] == 255).all()
    line = result["sources"][0]
    assert line["psnr"] == {"mean": None, "low": None, "high": None, "count": 0, "equal": 5}  # equal: no finite PSNR
    assert all(entry["psnr"] is None and entry["ssim"] == pytest.approx(1.0) for entry in entries.values())


def test_numbers_are_those_of_the_files_and_carry_their_protocol(here, parts, capsys):
    made = save_pictures(here / "one/pictures", 5)
    save_pictures(here / "two/pictures", 3)
    pack("two/pictures", "two/shards", kind="image")
    Image.fromarray(made[0]).save("single.png")
    sources = ["one/pictures", "two/pictures", "two/shards", "single.png"]
    result = run(*sources, "--codec", str(parts), "--batch", "4", "--shown", "4")
    said = capsys.readouterr().out
    assert "pictures" in said
    assert "out/sheet.png: what they look like; out/reconstruct.json: every number with its protocol" in said
    names = [line["name"] for line in result["sources"]]
    assert names == ["files", "pictures", "two-pictures", "shards"]
    lines = dict(zip(names, result["sources"], strict=True))
    drawn = [np.asarray(Image.open(f"out/{e['file']}")) for e in result["images"] if e["source"] == "pictures"]
    found = measure(np.stack(made), np.stack(drawn))
    assert lines["pictures"]["psnr"]["mean"] == pytest.approx(found["psnr"].mean())
    assert lines["pictures"]["ssim"]["mean"] == pytest.approx(found["ssim"].mean())
    assert lines["pictures"]["psnr"]["low"] < lines["pictures"]["psnr"]["mean"] < lines["pictures"]["psnr"]["high"]
    assert lines["two-pictures"]["ssim"]["mean"] == pytest.approx(lines["shards"]["ssim"]["mean"])  # the same pictures
    assert lines["files"]["psnr"]["low"] is None  # one picture has no interval
    every = [entry["psnr"] for entry in result["images"]]
    assert result["overall"]["psnr"]["mean"] == pytest.approx(np.mean(every))
    assert len(every) == 12
    protocol = lines["pictures"]["protocol"]
    assert (protocol["images"], protocol["refused"], protocol["dtype"], protocol["runtime"]) == (
        5,
        0,
        "float32",
        "eager",
    )
    crop = {"type": "centre_crop", "size": 32, "resize": None, "filter": "bicubic", "fast": False}
    assert protocol["transform"] == crop
    assert protocol["quantisation"] == "clamped to [0, 1], rounded to 8 bits"
    assert (
        result["codec"]["decoder_digest"]
        == read_artifact(ArtifactReference(path=str(parts / "artifact")), "decoder", "").digest
    )
    assert Image.open("out/sheet.png").width > 400

    again = run(*sources, "--codec", str(parts), "--batch", "7", "--no-pictures")
    assert not Path("out/reconstructions").exists()
    for first, second in zip(result["images"], again["images"], strict=True):
        assert second["psnr"] == pytest.approx(first["psnr"], abs=0.02)  # a value half-way may round either way
    assert again["overall"]["protocol"]["reference_sha256"] == result["overall"]["protocol"]["reference_sha256"]
    other = run(*sources, "--codec", "pixels.yaml")["overall"]["protocol"]
    assert other["reference_sha256"] == result["overall"]["protocol"]["reference_sha256"]
    assert other["codec_digest"] != protocol["codec_digest"]
    fewer = run(*sources, "--codec", "pixels.yaml", "--limit", "2")["overall"]["protocol"]
    assert fewer["images"] == 7
    assert fewer["reference_sha256"] != other["reference_sha256"]


def test_an_upsampling_codec_is_compared_at_the_size_that_it_draws(here, tmp_path_factory):
    parts = save_rae(
        tmp_path_factory.mktemp("doubled"), DecoderRecipe(width=32, depth=1, heads=4, mlp=48, patch_size=16)
    )
    made = save_pictures(here / "in", 2, size=64)
    Path("codec.yaml").write_text(
        yaml.safe_dump(
            {
                "type": "rae",  # the codec's own keys, without `codec:`
                "image_size": 32,
                "encoder": {"type": "siglip2", "path": str(parts.parent / "encoder")},
                "weights": {"path": str(parts / "artifact")},
            }
        )
    )
    result = run("in", "--codec", "codec.yaml")
    protocol = result["overall"]["protocol"]
    assert (protocol["image_size"], protocol["output_size"], protocol["transform"]["size"]) == (32, 64, 64)
    drawn = np.stack([np.asarray(Image.open(f"out/{entry['file']}")) for entry in result["images"]])
    assert drawn.shape == (2, 64, 64, 3)
    assert result["overall"]["ssim"]["mean"] == pytest.approx(measure(np.stack(made), drawn)["ssim"].mean())
    whole = run("in", "--codec", str(parts))  # left to itself the codec takes 64 pixels and its encoder resizes
    assert whole["overall"]["protocol"]["image_size"] == 64
    assert whole["overall"]["protocol"]["codec_digest"] != protocol["codec_digest"]


def test_bad_files_are_named_and_too_many_stop(here, capsys):
    save_pictures(here / "in", 30)
    Path("in/bad.png").write_bytes(b"no picture at all")
    result = run("in", "--codec", "pixels.yaml")
    assert [(entry["name"], entry["reason"]) for entry in result["refused"]] == [("bad.png", "not_an_image")]
    assert (result["overall"]["protocol"]["images"], result["overall"]["protocol"]["refused"]) == (30, 1)
    Path("in/cut.png").write_bytes(Path("in/p00.png").read_bytes()[:200])
    capsys.readouterr()
    result = run("in", "--codec", "pixels.yaml", code=3)
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith(
        "error: 2 of 32 pictures can't be used, 6.2%, more than the 5% that are put up with: bad.png: "
    )
    assert "cut.png: truncated_image" in err
    assert result["overall"]["protocol"]["images"] == 30  # the others' numbers are there
    Path("only").mkdir()
    Path("only/bad.png").write_bytes(b"nothing")
    arguments = ["reconstruct", "only", "--codec", "pixels.yaml", "--out", "none", "--runtime", "eager"]
    assert cli.main(arguments) == 3
    assert "none of the 1 pictures can be used; the first: bad.png: not_an_image" in capsys.readouterr().err
    assert not Path("none").exists()


def test_every_way_to_name_a_codec(parts, tmp_path):
    decoder = parts / "artifact"
    by_run, by_artifact = find_codec(str(parts)), find_codec(str(decoder))
    assert by_run == by_artifact
    assert by_run.weights == ArtifactReference(path=str(decoder))
    model, classes = save_model(tmp_path / "text"), save_class_model(tmp_path / "classes")
    assert find_codec(str(model)).weights.path == str(tmp_path / "text/decoder")
    assert find_codec(str(classes)).weights.path == str(tmp_path / "classes/decoder")
    recipe = {"stage": "pretrain", "codec": by_run.model_dump(mode="json"), "run": {"dir": "x"}}
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(recipe))
    assert find_codec(str(tmp_path / "stage.yaml")) == by_run
    (tmp_path / "child.yaml").write_text("extends: stage.yaml\ncodec: {image_size: 32}\n")
    assert find_codec(str(tmp_path / "child.yaml")).image_size == 32
    moved = tmp_path / "moved"
    shutil.copytree(parts.parent, moved)
    assert find_codec(str(moved / "run")).encoder.path == str(by_run.encoder.path)
    assert open_codec(find_codec(str(moved / "run"), str(moved / "encoder"))).facts == open_codec(by_run).facts


def test_errors_are_one_line(here, parts, capsys):
    save_pictures(here / "in", 1)
    Path("empty").mkdir()
    encoder = save_encoder(here / "encoder")
    nameless = write_artifact(here / "nameless", "decoder", {}, {}, {})
    write_artifact(here / "language", "language", {}, {}, {})
    rae = {"type": "rae", "encoder": {"type": "siglip2", "path": encoder}}
    Path("untrained.yaml").write_text(yaml.safe_dump({"codec": rae}))
    Path("wrong.yaml").write_text("codec: {type: pixels, image_sise: 32}\n")
    Path("small.yaml").write_text("codec: {type: pixels, image_size: 8, patch_size: 4}\n")
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("mine")
    assert nameless
    cases = [
        (["in", "--codec", "nowhere"], "--codec: nowhere does not exist; give a run directory"),
        (["in", "--codec", "none.yaml"], "no recipe none.yaml"),
        (["in", "--codec", "wrong.yaml"], "wrong.yaml:1: codec.image_sise: unknown key; did you mean 'image_size'?"),
        (["in", "--codec", "untrained.yaml"], "untrained.yaml names no trained decoder: give a decoder's run"),
        (["in", "--codec", "nameless"], "artifact.json does not say which encoder it belongs to; write a YAML file"),
        (["in", "--codec", "language"], "is an artifact of kind language; one of these is needed: decoder, aligntok"),
        (["in", "--codec", "pixels.yaml", "--encoder", "x"], "is a codec of type pixels, which has no encoder"),
        (["in", "--codec", "small.yaml"], "SSIM needs pictures of 11 pixels, this codec draws 8"),
        (["in", "--codec", "pixels.yaml", "--out", "full"], "full is not empty and holds no reconstruct.json"),
        (["missing", "--codec", "pixels.yaml"], "missing: there is no such file or folder"),
        (["empty", "--codec", "pixels.yaml"], "empty: no picture (avif, bmp"),
    ]
    capsys.readouterr()
    for arguments, line in cases:
        assert cli.main(["reconstruct", "--runtime", "eager", *arguments]) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith("error: "), err
        assert line in " ".join(err.split()), err


def test_aligntok_is_opened_by_its_artifact(tmp_path):
    recipe = save_aligntok(tmp_path)
    opened = open_codec(recipe)
    assert opened.facts["encoder"].startswith("aligntok/")
    stored = as_tensors(read_artifact(recipe.weights, "aligntok", "").weights())
    assert all(bool((value == stored[name]).all()) for name, value in opened.codec.state_dict().items())
    assert not any(parameter.requires_grad for parameter in opened.codec.parameters())
    refined = {name: value + 1 if name.startswith("decoder.") else value for name, value in stored.items()}
    assert aligntok_identity(refined) == opened.facts["encoder"]  # stage 3 leaves the latent as it is
    tuned = {name: value + 1 if name.startswith("encoder.") else value for name, value in stored.items()}
    assert aligntok_identity(tuned) != opened.facts["encoder"]
    statistics = save_statistics(tmp_path / "statistics", opened.facts)
    normalised = open_codec(recipe.model_copy(update={"statistics": statistics}))
    assert isinstance(normalised.codec.statistics, LatentStatistics)
    assert normalised.facts["statistics"] is not None
    with pytest.raises(UserError, match="needs its trained adapter and decoder"):
        open_codec(recipe.model_copy(update={"weights": None}))
    with pytest.raises(UserError, match=r"adapter\.fc2\.bias \[8\] instead of \[4\]"):
        open_codec(recipe.model_copy(update={"channels": 4}))


def test_xla_gives_the_same_and_compiles_once(in_process, parts):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    opened = open_codec(find_codec(str(parts)))
    expected = Reconstructor(opened.codec, open_runtime(EagerRecipe(device="cpu")))(pixels)
    found, compilations, fallbacks = in_process(reconstructed_on_xla, str(parts), pixels.tolist())
    assert np.abs(np.array(found) - expected.astype(int)).max() <= 1  # a value half-way may round either way
    assert (np.array(found) != expected).mean() < 0.01
    assert (compilations, fallbacks) == (0, {})


def test_means_and_intervals_by_hand():
    value = mean_of([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * 1.2909944 / 2  # t(0.975, 3) s / sqrt(n)
    assert (value.mean, value.count, value.equal) == (2.5, 4, 0)
    assert value.high - value.mean == pytest.approx(half, rel=1e-6)
    assert value.mean - value.low == pytest.approx(half, rel=1e-6)
    assert mean_of([1.0, np.inf, 3.0]).mean == 2.0
    assert mean_of([1.0, np.inf, 3.0]).equal == 1
    assert mean_of([np.inf]).mean is None


def test_the_sheet_shows_original_reconstruction_and_difference():
    original = np.full((32, 32, 3), 100, dtype=np.uint8)
    again = original.copy()
    again[:, :, 0] += 10
    again[0, 0, 2] -= 90
    shown = difference(original, again)
    assert shown[5, 5].tolist() == [168, 128, 128]
    assert shown[0, 0, 2] == 0
    pairs = [Pair(original, again, f"a very long name of a picture {number}" * 4, "PSNR") for number in range(3)]
    sheet = comparison_sheet(pairs, "title", "subtitle")
    assert sheet.width < 1500
    colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    assert {(100, 100, 100), (110, 100, 100), (168, 128, 128)} <= colours


def test_pictures_are_read_in_order_and_sources_have_names_of_their_own(tmp_path):
    made = save_pictures(tmp_path / "a/x", 90, size=8)
    save_pictures(tmp_path / "b/x", 1, size=8)
    first, second, third = open_pictures([str(tmp_path / "a/x"), str(tmp_path / "b/x"), str(tmp_path / "a/x")])
    assert (first.name, second.name) == ("x", "b-x")
    assert third.name not in ("x", "b-x")
    read = list(read_pictures(first, [lambda pixels: pixels]))
    assert [picture.number for picture in read] == list(range(90))
    assert all(np.array_equal(picture.pixels[0], pixels) for picture, pixels in zip(read, made, strict=True))
