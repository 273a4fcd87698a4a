"""What an export writes, and what it has no words for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raexla import cli
from raexla.checkpoint import write_artifact
from raexla.flow.time import TimeRecipe
from raexla.formats import ExportOptions, ImportOptions, export_artifact, import_released, show_artifact
from raexla.formats.stream import write_safetensors, write_sharded
from raexla.recipe import UserError
from tests import released, tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported artifacts of a decoder and of a model."""
    root = tmp_path_factory.mktemp("export")
    tiny.encoder(root / "siglip")
    tiny.language(root / "language")
    released.save_decoder(root / "siglip2_decoder")
    released.save_scale_rae(root / "t2i", root / "language")
    options = ImportOptions(encoder=str(root / "siglip"))
    import_released(root / "siglip2_decoder", root / "decoder", options)
    import_released(root / "t2i", root / "model", options)
    return root


def copy(source: Path, out: Path, **changes: Any) -> Path:
    """An artifact with other files: a model's recipe and weights changed by hand."""
    weights = {name: value.numpy() for name, value in load_file(source / "model.safetensors").items()}
    weights |= changes.pop("weights", {})
    manifest = json.loads((source / "artifact.json").read_text())
    described = json.loads((source / "model.json").read_text())
    for key, value in changes.items():
        described[key] = described[key] | value
    extra = {
        file.name: file.read_bytes()
        for file in source.iterdir()
        if file.name not in ("artifact.json", "model.safetensors", "model.json")
    }
    extra["model.json"] = json.dumps(described).encode()
    write_artifact(out, manifest["kind"], weights, manifest["facts"], manifest["meta"], extra)
    return out


def test_the_card_says_what_is_known_and_no_more(made: Path, tmp_path: Path) -> None:
    export_artifact(made / "decoder", tmp_path / "out", "hf", ExportOptions(licence="mit"))
    card = (tmp_path / "out" / "README.md").read_text()
    manifest = json.loads((made / "decoder" / "artifact.json").read_text())
    assert card.startswith("---\nlibrary_name: raexla\npipeline_tag: image-to-image\nlicense: mit\n---\n\n# out\n")
    for known in (manifest["digest"], manifest["facts"]["encoder"], str(made / "siglip"), "| token grid | 4 x 4 |"):
        assert known in card
    for name, digest in manifest["meta"]["imported"]["files"].items():
        assert f"| released file {name} | {digest} |" in card
    assert "No scores stand in the artifact." in card
    assert "raexla ckpt import out --encoder ENCODER --out ARTIFACT" in card
    assert card.endswith("Licence: mit.\n")
    export_artifact(made / "decoder", tmp_path / "other", "hf", ExportOptions())
    assert "Licence: not stated in the artifact" in (tmp_path / "other" / "README.md").read_text()


def test_scores_stand_on_the_card(made: Path, tmp_path: Path) -> None:
    manifest = json.loads((made / "decoder" / "artifact.json").read_text())
    weights = {name: value.numpy() for name, value in load_file(made / "decoder" / "model.safetensors").items()}
    meta = {"scores": {"rFID, 256 px, 50,000 ImageNet pictures": 0.57}, "step": 7, "recipe_sha256": "abc"}
    write_artifact(tmp_path / "decoder", "decoder", weights, manifest["facts"], meta)
    export_artifact(tmp_path / "decoder", tmp_path / "out", "hf", ExportOptions())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| rFID, 256 px, 50,000 ImageNet pictures | 0.57 |" in card
    assert "| training steps | 7 |" in card
    assert "| recipe | abc |" in card


def test_what_has_no_words_there_is_refused_and_nothing_is_written(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(source: Path, match: str, form: Any = "hf") -> None:
        with pytest.raises(UserError, match=match):
            export_artifact(source, out, form, ExportOptions())
        assert not out.exists()

    shifted = copy(made / "model", tmp_path / "shifted", flow={"shift": 3.14})
    refused(shifted, r"time shift is 3\.14, given by number.*sqrt\(16 x 24 / n\)")
    frequencies = {"dit.t_embedder.W": np.zeros(256, np.float32)}
    refused(copy(made / "model", tmp_path / "zero", weights=frequencies), r"does not store dit\.t_embedder\.W")
    more = {"dit.more": np.zeros(1, np.float32)}
    refused(copy(made / "model", tmp_path / "more", weights=more), r"unexpected: dit\.more")
    refused(made / "model", "AutoencoderRAE", "diffusers")
    refused(made / "siglip", "is not an artifact")
    write_artifact(tmp_path / "encoder", "encoder", {}, {}, {})
    refused(tmp_path / "encoder", "a Hugging Face folder already")
    out.mkdir()
    with pytest.raises(UserError, match="exists already"):
        export_artifact(made / "decoder", out, "hf", ExportOptions())


def test_a_shift_given_by_number_is_written_as_its_base_dimension(made: Path, tmp_path: Path) -> None:
    source = copy(made / "model", tmp_path / "shifted", flow={"shift": 2.0})
    export_artifact(source, tmp_path / "out", "hf", ExportOptions())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["diffusion_base_dim"] == 96
    assert TimeRecipe(base_dim=96).factor(16, 24) == 2.0


def test_what_the_layout_has_no_key_for_comes_back_too(made: Path, tmp_path: Path) -> None:
    chat = {"length": 96, "system": "", "instruct": "Draw {caption}", "answer_prefix": ""}
    source = copy(made / "model", tmp_path / "own", flow={"shift": 2.0, "std": 0.8}, chat=chat)
    export_artifact(source, tmp_path / "out", "hf", ExportOptions())
    import_released(tmp_path / "out", tmp_path / "back", ImportOptions(encoder=str(made / "siglip")))
    was, now = (json.loads((folder / "model.json").read_text()) for folder in (source, tmp_path / "back"))
    assert was["chat"] != json.loads((made / "model" / "model.json").read_text())["chat"]
    for part in ("chat", "flow", "codec"):
        assert was[part] == now[part]
    assert was["model"]["dit"] == now["model"]["dit"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["raexla"]["chat"]["length"] = "long"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: raexla\.chat\.length: Input should be a valid integer"):
        import_released(tmp_path / "out", tmp_path / "again", ImportOptions(encoder=str(made / "siglip")))


def test_the_official_reader_gets_what_its_version_of_transformers_knows(made: Path, tmp_path: Path) -> None:
    export_artifact(made / "model", tmp_path / "out", "hf", ExportOptions(encoder="google/siglip2"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == 10000.0
    assert config["rope_scaling"] is None
    assert "rope_parameters" not in config
    assert config["mm_vision_tower_aux_list"] == ["google/siglip2-tiny"]  # as it was imported
    assert config["vision_tower_aux_token_len_list"] == [16]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in stored  # tied: Hugging Face's own files leave it out


def test_streamed_files_are_what_the_library_reads(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "b.weight": torch.randn(3, 5, generator=draw).T,
        "a": torch.randn(7, generator=draw).bfloat16(),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.0),
    }
    write_safetensors(tmp_path / "file", tensors)
    back = load_file(tmp_path / "file")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], value.float()) for name, value in tensors.items())
    names = write_sharded(tmp_path, tensors, shard_bytes=64)
    assert names[-1] == "model.safetensors.index.json"
    table = json.loads((tmp_path / names[-1]).read_text())
    assert table["metadata"]["total_size"] == sum(4 * value.numel() for value in tensors.values())
    for name, file in table["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name].float())


def test_show(made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["ckpt", "show", str(made / "decoder")]) == 0
    said = capsys.readouterr().out
    assert "artifact of kind decoder" in said
    assert "39 tensors, 15,216 numbers" in said
    assert "  grid: [4, 4]" in said
    with pytest.raises(UserError, match="is no artifact, no checkpoint and no run"):
        show_artifact(tmp_path)
