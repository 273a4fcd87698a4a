"""What users try first: a released folder in, pictures, a little training, out again, and in again, bit for bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from raexla import cli
from raexla.checkpoint.artifact import MANIFEST
from raexla.data.nano.write import write_nano
from raexla.sampling.codec import open_codec
from raexla.sampling.named_codec import find_codec
from tests import released, stages, tiny

ENCODER = "downloads/encoder"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with downloads: one of each released layout, tiny."""
    root = tmp_path_factory.mktemp("released")
    downloads = root / "downloads"
    tiny.encoder(downloads / "encoder")
    tiny.language(root / "language")
    released.save_decoder(downloads / "siglip2_decoder")
    released.save_statistics(downloads / "RAE-collections" / "stats" / "stat.pt")
    released.save_dit_dh(downloads / "RAE-collections" / "DiTs" / "stage2_model.pt")
    released.save_scale_rae(downloads / "Scale-RAE", root / "language")
    return root


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def raexla(*arguments: str) -> None:
    assert cli.main(arguments) == 0


def weights(folder: str) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def assert_same(first: str, second: str) -> None:
    """Bit-equal tensors and equal facts. (`meta` differs: it says where each was imported from.)"""
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    facts = [json.loads((Path(folder) / MANIFEST).read_text())["facts"] for folder in (first, second)]
    assert facts[0] == facts[1]


def noise(file: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(values).save(file)


def test_decoder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raexla("ckpt", "import", "downloads/siglip2_decoder", "--encoder", ENCODER, "--out", "decoder")
    said = capsys.readouterr().out
    assert "0 missing, 0 unexpected, 0 mis-shaped, 0 with wrong values" in said
    assert "sizes from config.json: 24 wide, 2 deep, 2 heads, MLP 48, patch 8, eps 1e-12" in said
    noise("picture.png")
    raexla("reconstruct", "picture.png", "--codec", "decoder", "--runtime", "eager", "--out", "seen")
    assert list(Path("seen").rglob("*.png"))
    raexla("ckpt", "export", "decoder", "--out", "exported/decoder")
    assert {file.name for file in Path("exported/decoder").iterdir()} == {"config.json", "model.pt", "README.md"}
    raexla("ckpt", "import", "exported/decoder", "--encoder", ENCODER, "--out", "again/decoder")
    assert_same("decoder", "again/decoder")
    stored = torch.load("downloads/siglip2_decoder/model.pt", weights_only=True)
    back = torch.load("exported/decoder/model.pt", weights_only=True)
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[key], stored[key]) for key in stored if key != "decoder_pos_embed")
    torch.testing.assert_close(back["decoder_pos_embed"], stored["decoder_pos_embed"], rtol=0, atol=1e-6)


def test_text_to_image(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--encoder", ENCODER, "--decoder", "t2i/decoder")
    raexla("ckpt", "import", "downloads/siglip2_decoder", "--encoder", ENCODER, "--out", "t2i/decoder")
    capsys.readouterr()
    raexla("ckpt", "import", "downloads/Scale-RAE", *where, "--out", "t2i/model")
    said = capsys.readouterr().out
    assert "derived, values as they must be: lm_head.weight, diff_head.model.pos_embed" in said
    assert "not in the file, made by its rule: dit.t_embedder.W" in said
    prompts = ("--prompt", "a red circle", "--prompt", "two blue squares")
    raexla("sample", "--model", "t2i/model", *prompts, "--steps", "2", "--runtime", "eager", "--out", "drawn")
    assert len([file for file in Path("drawn").rglob("*.png") if "sheet" not in file.name]) == 2
    finetune(place, "t2i/model")
    for model in ("t2i/model", "tuned/artifact"):
        raexla("ckpt", "export", model, "--out", f"exported/{model}", "--shard-gib", "0.0001")
        index = json.loads(Path(f"exported/{model}/model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 2
        raexla("ckpt", "import", f"exported/{model}", *where, "--out", f"again/{model}")
        assert_same(model, f"again/{model}")
        assert_same_description(model, f"again/{model}")
    first, tuned = weights("t2i/model"), weights("tuned/artifact")
    assert not torch.equal(first["dit.blocks.0.attn.qkv.weight"], tuned["dit.blocks.0.attn.qkv.weight"])
    assert "trained from | t2i/model" in Path("exported/tuned/artifact/README.md").read_text()
    stored = json.loads(Path("downloads/Scale-RAE/config.json").read_text())
    back = json.loads(Path("exported/t2i/model/config.json").read_text())
    assert {key: back[key] for key in stored} == stored


def assert_same_description(first: str, second: str) -> None:
    """The same recipe, but for the language model's folder, which an artifact carries itself."""
    one, two = (json.loads((Path(folder) / "model.json").read_text()) for folder in (first, second))
    for recipe in (one, two):
        recipe["model"]["llm"].pop("path")
        recipe["model"]["dit"].pop("size")
    assert one == two


def finetune(place: Path, model: str) -> None:
    """Three steps of the stage `finetune` on a few nano samples."""
    counts: Any = {"finetune": 24, "understanding": 24}
    write_nano(place / "data", counts, processes=1)
    made = {name: str(place / "data" / name) for name in counts}
    values = stages.finetune(made, "tuned", model, train={"steps": 3, "global_batch_images": 12}, times_per_image=1)
    Path("finetune.yaml").write_text(json.dumps(values))
    raexla("train", "finetune.yaml")


def test_class_conditional(capsys: pytest.CaptureFixture[str]) -> None:
    """`stat.pt`, a decoder without a config.json, and a DiT with its EMA."""
    collection = "downloads/RAE-collections"
    raexla("ckpt", "import", f"{collection}/stats/stat.pt", "--encoder", ENCODER, "--out", "c2i/statistics")
    statistics = ("--encoder", ENCODER, "--statistics", "c2i/statistics")
    raexla("ckpt", "import", "downloads/siglip2_decoder", *statistics, "--out", "c2i/decoder")
    where = (*statistics, "--decoder", "c2i/decoder")
    capsys.readouterr()
    raexla("ckpt", "import", f"{collection}/DiTs/stage2_model.pt", *where, "--out", "c2i/dit")
    assert "10 classes and the null class (11 labels)" in capsys.readouterr().out
    stored = torch.load(f"{collection}/DiTs/stage2_model.pt", weights_only=True)
    frequencies = weights("c2i/dit")["t_embedder.W"]
    assert torch.equal(frequencies, stored["ema"]["t_embedder.W"])
    raexla("sample", "--model", "c2i/dit", "--classes", "3,5", "--steps", "2", "--runtime", "eager", "--out", "classes")
    assert len([file for file in Path("classes").rglob("*.png") if "sheet" not in file.name]) == 2
    raexla("ckpt", "export", "c2i/dit", "--out", "exported/dit")
    raexla("ckpt", "import", "exported/dit", *where, "--out", "again/dit")
    assert_same("c2i/dit", "again/dit")
    one, two = (json.loads(Path(folder, "dit.json").read_text()) for folder in ("c2i/dit", "again/dit"))
    assert one == two
    raexla("ckpt", "export", "c2i/statistics", "--out", "exported/statistics")
    raexla("ckpt", "import", "exported/statistics", "--encoder", ENCODER, "--out", "again/statistics")
    assert_same("c2i/statistics", "again/statistics")
    back = torch.load("exported/statistics/stat.pt", weights_only=True)
    wanted = torch.load(f"{collection}/stats/stat.pt", weights_only=True)
    assert all(torch.equal(back[name], wanted[name]) for name in wanted)


def test_an_imported_decoder_draws_what_the_official_order_of_tokens_means() -> None:
    """The codec of the imported decoder, against the released weights put through plain linear algebra."""
    raexla("ckpt", "import", "downloads/siglip2_decoder", "--encoder", ENCODER, "--out", "linear/decoder")
    codec: Any = open_codec(find_codec("linear/decoder")).codec
    stored = torch.load("downloads/siglip2_decoder/model.pt", weights_only=True)
    latent = torch.randn(1, 16, 24, generator=torch.Generator().manual_seed(0))
    x = latent @ stored["decoder_embed.weight"].T + stored["decoder_embed.bias"]
    x = torch.cat([stored["trainable_cls_token"], x], dim=1) + stored["decoder_pos_embed"]
    torch.testing.assert_close(codec.decoder.embed_latent(latent), x, rtol=1e-5, atol=1e-5)
