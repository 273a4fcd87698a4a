"""LPIPS and rFID of `raexla reconstruct`: the real networks on seeded weights, per source, with their protocol."""

import io
import json
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from raexla import cli
from raexla.checkpoint.files import sha256
from raexla.eval.features import load_inception
from raexla.eval.frechet import frechet_distance
from raexla.eval.moments import Covariance
from raexla.models.encoders import Siglip2Recipe, load_encoder
from tests.unit.eval.codecs_on_disk import save_rae
from tests.unit.sampling.tiny import save_encoder
from tests.vgg import save_vgg16


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return save_rae(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in (("one", 7), ("two", 5)):
        Path(name).mkdir()
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"{name}/p{number}.png")
    return tmp_path


def run(*arguments: str, code: int = 0) -> dict:
    assert cli.main(["reconstruct", "--runtime", "eager", "--out", "out", *arguments]) == code
    return json.loads(Path("out/reconstruct.json").read_text()) if code == 0 else {}


def pairs(result: dict, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Originals and reconstructions of a source, float [n, 3, 32, 32]."""
    entries = [entry for entry in result["images"] if entry["source"] == source]
    first = [np.asarray(Image.open(f"{source}/{entry['name']}")) for entry in entries]
    second = [np.asarray(Image.open(f"out/{entry['file']}")) for entry in entries]
    return tuple(np.moveaxis(np.stack(pixels), -1, 1) / 255 for pixels in (first, second))


def test_lpips_is_the_packages(here, parts, capsys):
    vgg = save_vgg16(here / "vgg.safetensors")
    result = run("one", "two", "--codec", str(parts), "--lpips", vgg, "--batch", "4")
    assert "LPIPS" in capsys.readouterr().out
    package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    state = load_file(vgg)
    renamed = {name: state[f"features.{name.split('.', 1)[1]}"] for name in package.net.state_dict()}
    package.net.load_state_dict(renamed)
    first, second = (torch.from_numpy(x).float() * 2 - 1 for x in pairs(result, "one"))
    with torch.no_grad():
        expected = package.eval()(first, second).flatten().numpy()
    found = [entry["lpips"] for entry in result["images"] if entry["source"] == "one"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    line = result["sources"][0]
    assert line["lpips"]["mean"] == pytest.approx(expected.mean(), rel=1e-4)
    assert sha256(Path(vgg)) in line["protocol"]["measures"]["lpips"]
    assert "rfid" not in line


def test_rfid_of_an_encoders_features_per_source(here, parts, capsys):
    folder = save_encoder(here / "judge")
    result = run("one", "two", "--codec", str(parts), "--features", folder, "--batch", "3")
    assert "rFID" in capsys.readouterr().out
    encoder = load_encoder(Siglip2Recipe(type="siglip2", path=folder), 32)
    sets: dict[str, list[np.ndarray]] = {}
    for source in ("one", "two"):
        sets[source] = [
            encoder(torch.from_numpy(x).float()).mean(1).detach().numpy().astype(np.float64)
            for x in pairs(result, source)
        ]
    sets["overall"] = [np.concatenate([sets["one"][side], sets["two"][side]]) for side in (0, 1)]
    for line in (*result["sources"], result["overall"]):
        first, second = sets[line["name"]]
        x1, x2 = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (first, second))
        root = np.linalg.svd(x1 @ x2.T, compute_uv=False).sum()
        expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + (x1**2).sum() + (x2**2).sum() - 2 * root
        assert line["rfid"] == pytest.approx(expected, rel=1e-4)
    stamp = result["overall"]["protocol"]["rfid"]
    assert stamp["width"] == 24
    assert stamp["features"].startswith("mean over the 4 x 4 tokens of Siglip2Encoder")
    Path("pixels.yaml").write_text(yaml.safe_dump({"type": "pixels", "image_size": 32, "patch_size": 8}))
    same = run("one", "--codec", "pixels.yaml", "--features", folder)
    assert same["sources"][0]["rfid"] < 1e-5  # what loses nothing is at no distance
    assert same["overall"]["rfid"] == same["sources"][0]["rfid"]
    assert run("one", "--codec", "pixels.yaml", "--features", folder, "--limit", "1")["overall"]["rfid"] is None


class Bare(FeatureExtractorInceptionV3):
    """The real network, as its constructor initialises it: no weights are loaded."""

    def load_state_dict(self, state, strict=True, assign=False):
        return None


def test_inception_is_torch_fidelitys(here):
    torch.manual_seed(0)
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    real = Bare("inception", ["2048"], feature_extractor_weights_path=empty)
    save_file(real.state_dict(), "inception.safetensors")
    Path("pixels.yaml").write_text(yaml.safe_dump({"type": "pixels", "image_size": 32, "patch_size": 8}))
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))
    with torch.no_grad():
        features = load_inception("inception.safetensors")(pixels)
        assert torch.equal(features, real(pixels)[0])
    assert features.shape == (2, 2048)
    result = run("one", "--codec", "pixels.yaml", "--features", "inception.safetensors", "--limit", "2")
    stamp = result["overall"]["protocol"]["rfid"]
    assert stamp["features"].startswith("torch-fidelity's InceptionV3, 2048 features")
    assert stamp["sha256"] == sha256(Path("inception.safetensors"))
    assert result["overall"]["rfid"] < 1e-6
    moved = Covariance.of(features.double().numpy() + 1)
    assert frechet_distance(moved, Covariance.of(features.double().numpy())) == pytest.approx(2048, rel=1e-6)


def test_missing_and_other_weights_are_one_line(here, parts, capsys):
    save_file({"features.0.weight": torch.zeros(1)}, "other.safetensors")
    Path("folder").mkdir()
    Path("text").mkdir()
    Path("text/config.json").write_text('{"model_type": "qwen2"}')
    Path("tiny.yaml").write_text(yaml.safe_dump({"type": "pixels", "image_size": 12, "patch_size": 4}))
    for arguments, line in (
        (["--lpips", "none.pth"], "none.pth: no such file; it should hold VGG16's ImageNet weights"),
        (["--lpips", "other.safetensors"], "other.safetensors: not the weights of a VGG16: features."),
        (["--features", "none.pth"], "none.pth is neither a file of Inception weights (weights-inception-2015-12-05"),
        (["--features", "folder"], "folder is neither a file of Inception weights"),
        (["--features", "text"], "text holds a model of type qwen2; known are siglip_vision_model, siglip, dinov2"),
        (["--features", "other.safetensors"], "other.safetensors: not torch-fidelity's Inception weights"),
        (["--lpips", "x.pth", "--codec", "tiny.yaml"], "VGG16 needs pictures of 16 pixels, this codec draws 12"),
    ):
        run("one", "--codec", str(parts), *arguments, code=2)
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert line in " ".join(error.split()), error
    assert not Path("out").exists()
