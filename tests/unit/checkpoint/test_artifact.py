"""Artifacts: kinds and hashes are checked, and a stage refuses what was made for something else, with both values."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raexla.checkpoint import read_artifact, write_artifact
from raexla.checkpoint.files import sha256
from raexla.models.codecs import RAECodecRecipe
from raexla.recipe import ArtifactReference, UserError
from raexla.sampling.codec import encoder_identity, open_codec
from raexla.sampling.model import load_model
from tests import stages, tiny

WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}


def _write(path: Path, kind: str = "decoder", **facts: Any) -> Path:
    write_artifact(path, kind, WEIGHTS, facts, {"note": "made by a test"}, {"config.json": b"{}"})
    return path


def test_round_trip(tmp_path):
    digest = write_artifact(tmp_path / "x", "decoder", WEIGHTS, {"grid": [4, 4]}, {"step": 3}, {"config.json": b"{}"})
    artifact = read_artifact(ArtifactReference(path=str(tmp_path / "x")), "decoder", "codec.weights")
    assert (artifact.kind, artifact.facts, artifact.meta) == ("decoder", {"grid": [4, 4]}, {"step": 3})
    assert artifact.digest == digest
    np.testing.assert_array_equal(artifact.weights()["a"], WEIGHTS["a"])
    other = write_artifact(tmp_path / "y", "decoder", WEIGHTS, {}, {"step": 4}, {"config.json": b"{}"})
    assert other == digest, "the identity is that of the files, not of what is told about them"


def test_pinned_hash(tmp_path):
    path = _write(tmp_path / "x")
    right = sha256(path / "artifact.json")
    assert read_artifact(ArtifactReference(path=str(path), sha256=right), "decoder", "init").path == path
    with pytest.raises(UserError, match=f"^init: .*has sha256 {right}, the recipe asks for {'0' * 64}$"):
        read_artifact(ArtifactReference(path=str(path), sha256="0" * 64), "decoder", "init")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("byte", r"model\.safetensors has changed since the artifact was written"),
        ("file", r"config\.json is missing from the artifact"),
        ("manifest", r"is not an artifact: it has no artifact\.json"),
        ("folder", "does not exist"),
        ("format", "has artifact format 9, this program reads 1"),
        ("kind", "is an artifact of kind statistics, a decoder is needed"),
    ],
)
def test_what_is_refused(damage, message, tmp_path):
    path = _write(tmp_path / "x", "statistics" if damage == "kind" else "decoder")
    manifest = path / "artifact.json"
    if damage == "byte":
        content = bytearray((path / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (path / "model.safetensors").write_bytes(content)
    elif damage == "file":
        (path / "config.json").unlink()
    elif damage == "manifest":
        manifest.unlink()
    elif damage == "folder":
        path = tmp_path / "nowhere"
    elif damage == "format":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 9}))
    with pytest.raises(UserError, match=f"^codec.weights: .*{message}"):
        read_artifact(ArtifactReference(path=str(path)), "decoder", "codec.weights")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny world, a decoder's artifact and a model's."""
    root = tmp_path_factory.mktemp("artifacts")
    made = stages.world(root)
    task, _ = stages.open_stage(stages.decoder(made, root / "run"))
    task.export(root / "decoder_artifact", {})
    made["decoder_artifact"] = str(root / "decoder_artifact")
    made["model"] = str(stages.save_model(made, root / "start"))
    made["other_encoder"] = str(tiny.encoder(root / "other", seed=1))
    return made


def _retold(path: str, out: Path, **facts: Any) -> str:
    """A copy of an artifact that claims to have been made for something else."""
    out.mkdir()
    for file in Path(path).iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((out / "artifact.json").read_text())
    manifest["facts"] |= facts
    (out / "artifact.json").write_text(json.dumps(manifest))
    return str(out)


def _codec(encoder: str, weights: str, **more: Any) -> RAECodecRecipe:
    values = {"type": "rae", "encoder": {"type": "siglip2", "path": encoder}, "weights": {"path": weights}, **more}
    return RAECodecRecipe.model_validate(values)


def test_a_codec_that_fits(made):
    opened = open_codec(_codec(made["encoder"], made["decoder_artifact"]))
    assert opened.facts == {
        "encoder": encoder_identity(made["encoder"]),
        "grid": [4, 4],
        "channels": 24,
        "statistics": None,
    }
    assert opened.codec.decoder is not None
    assert not any(p.requires_grad for p in opened.codec.decoder.parameters())


def test_a_decoder_of_another_encoder_is_refused_with_both_hashes(made):
    ours, theirs = encoder_identity(made["other_encoder"]), encoder_identity(made["encoder"])
    assert ours != theirs
    with pytest.raises(UserError, match=f"^codec.weights: .* was made for encoder {theirs}, .* has {ours}$"):
        open_codec(_codec(made["other_encoder"], made["decoder_artifact"]))


@pytest.mark.parametrize(
    ("fact", "value", "here"), [("grid", [8, 8], "[4, 4]"), ("channels", 48, "24"), ("statistics", "abc", "None")]
)
def test_a_decoder_for_another_latent_is_refused(fact, value, here, made, tmp_path):
    path = _retold(made["decoder_artifact"], tmp_path / "x", **{fact: value})
    with pytest.raises(UserError, match=re.escape(f"was made for {fact} {value}, but this recipe has {here}")):
        open_codec(_codec(made["encoder"], path))


def test_a_decoder_of_other_sizes_is_refused(made):
    sizes = {"width": 48, "depth": 1, "heads": 2, "mlp": 48, "patch_size": 8}
    with pytest.raises(UserError, match=r"codec\.decoder: .* holds a decoder of other sizes; leave them out"):
        open_codec(_codec(made["encoder"], made["decoder_artifact"], decoder=sizes))


def test_statistics_of_another_encoder_are_refused(made, tmp_path):
    arrays = {"mean": np.zeros((16, 24), np.float32), "var": np.ones((16, 24), np.float32)}
    write_artifact(tmp_path / "s", "statistics", arrays, {"encoder": "theirs"}, {})
    values = {"type": "rae", "encoder": {"type": "siglip2", "path": made["encoder"]}}
    recipe = RAECodecRecipe.model_validate(values | {"statistics": {"path": str(tmp_path / "s")}})
    ours = encoder_identity(made["encoder"])
    with pytest.raises(UserError, match=f"^codec.statistics: .* made for encoder theirs, but this recipe has {ours}$"):
        open_codec(recipe)
    write_artifact(tmp_path / "t", "statistics", arrays, {"encoder": ours}, {})
    recipe = recipe.model_copy(
        update={"statistics": recipe.statistics.model_copy(update={"path": str(tmp_path / "t")})}
    )  # type: ignore[union-attr]
    assert open_codec(recipe).facts["statistics"] is not None


@pytest.mark.parametrize(
    ("fact", "value"),
    [("encoder", "theirs"), ("grid", [8, 8]), ("channels", 48), ("statistics", "abc"), ("shift", 7.5)],
)
def test_a_model_for_another_latent_is_refused(fact, value, made, tmp_path):
    here = {"encoder": encoder_identity(made["encoder"]), "grid": [4, 4], "channels": 24, "shift": 2.0}.get(fact)
    path = _retold(made["model"], tmp_path / "x", **{fact: value})
    with pytest.raises(UserError, match=re.escape(f"was made for {fact} {value}, but this recipe has {here}")):
        load_model(Path(path), where="init.path")


def test_a_model_loads_with_another_decoder_but_not_with_another_encoder(made):
    model = load_model(Path(made["model"]), _codec(made["encoder"], made["decoder_artifact"]))
    assert model.codec.decoder is not None
    other = RAECodecRecipe.model_validate(
        {"type": "rae", "encoder": {"type": "siglip2", "path": made["other_encoder"]}}
    )
    with pytest.raises(UserError, match="was made for encoder"):
        load_model(Path(made["model"]), other)
