"""What `tools/parity.py` refuses, names and never leaves out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.parity.plain_cases import CASES
from tests.parity.plain_made import Made

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity"


@pytest.fixture
def made() -> Made:
    return CASES["webssl"]()


def changed(made: Made, **tensors: torch.Tensor | None) -> Made:
    """With some tensors replaced, or taken away."""
    named = {key.replace("__", "/", 1).replace("__", "."): value for key, value in tensors.items()}
    kept = {key: value for key, value in (made.tensors | named).items() if value is not None}
    return replace(made, tensors=kept)


def test_an_output_without_a_counterpart_fails(tool, made, tmp_path, capsys):
    path = changed(made, output__attention_maps=torch.ones(2)).write(tmp_path)
    assert tool.main([path]) == 1
    printed = capsys.readouterr().out
    assert "output/attention_maps     FAIL  not compared: webssl_features has no counterpart for it here" in printed
    assert "1 of 3 tensors failed, in 1 fixture" in printed


def test_a_gradient_without_a_counterpart_fails(tool, tmp_path, capsys):
    dit = CASES["ddt wide"]()
    assert tool.main([changed(dit, grad__pos_embed=torch.ones(1, 9, 32)).write(tmp_path)]) == 1
    assert "grad/pos_embed" in capsys.readouterr().out


def test_a_tensor_that_is_listed_but_absent_fails(tool, made, tmp_path, capsys):
    path = Path(made.write(tmp_path))
    described = json.loads(path.with_suffix(".json").read_text())
    described["tensors"]["output/more"] = [1]
    path.with_suffix(".json").write_text(json.dumps(described))
    assert tool.main([str(path)]) == 1
    assert "output/more               FAIL  is listed in the JSON, but not in the file" in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reference_that_is_not_finite_fails(tool, made, value, tmp_path, capsys):
    features = made.tensors["output/features"].clone()
    features[0, 0, 0] = value
    assert tool.main([changed(made, output__features=features).write(tmp_path)]) == 1
    assert "the reference is not finite" in capsys.readouterr().out


def test_another_shape_fails(tool, made, tmp_path, capsys):
    assert tool.main([changed(made, output__features=torch.ones(2, 5, 32)).write(tmp_path)]) == 1
    assert "ours has shape [2, 25, 32], the reference [2, 5, 32]" in capsys.readouterr().out


def test_nothing_to_compare_is_no_success(tool, made, tmp_path):
    kept = {key: value for key, value in made.tensors.items() if not key.startswith("output/")}
    assert tool.main([replace(made, tensors=kept).write(tmp_path)]) == 1


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("webssl", "encoder.layer.1.norm1.weight"),
        ("upsample patch 28", "decoder_layers.1.output.dense.bias"),
        ("ddt wide", "s_projector.weight"),
        ("lightningdit", "blocks.0.attn.qkv.bias"),
    ],
)
def test_a_missing_and_a_mis_shaped_weight_are_named(tool, name, key, tmp_path, capsys):
    made = CASES[name]()
    without = {k: v for k, v in made.tensors.items() if k != f"weight/{key}"}
    assert tool.main([replace(made, tensors=without).write(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert key in errors
    assert "missing" in errors
    assert tool.main([replace(made, tensors=without | {f"weight/{key}": torch.ones(3)}).write(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert key in errors
    assert "[3]" in errors


def test_a_renamed_weight_is_named(tool, tmp_path, capsys):
    made = CASES["upsample patch 28"]()
    tensors = dict(made.tensors)
    tensors["weight/decoder_pred.wight"] = tensors.pop("weight/decoder_pred.weight")
    assert tool.main([replace(made, tensors=tensors).write(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "missing: decoder_pred.weight" in errors
    assert "unexpected: decoder_pred.wight" in errors


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("upsample patch 28", "hidden_act", "relu", "hidden_act: 'relu'; here it can only be 'gelu'"),
        ("upsample patch 28", "num_patches", 24, "num_patches: 24, but the rest of the fixture gives 25"),
        ("upsample patch 28", "latent_grid", 4, "latent_grid: 4, but input/z has 25 tokens"),
        ("lightningdit", "wo_shift", True, "wo_shift: True; here it can only be False"),
        ("lightningdit", "mlp_ratio", 2.0, "mlp_ratio: 2.0"),
        ("ddt wide", "use_mlp", True, "use_mlp: True"),
        ("ddt wide", "diffusion_channels", 13, "diffusion_channels: 13"),
        ("sampler", "shift", 1.0, "shift: 1.0, but tokens and channels give 2.0"),
    ],
)
def test_config_values_that_are_not_supported_are_refused_by_name(tool, name, field, value, message, tmp_path, capsys):
    made = CASES[name]()
    assert tool.main([replace(made, config=made.config | {field: value}).write(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_config_fields_that_nobody_knows_are_reported(tool, tmp_path, capsys):
    made = CASES["upsample patch 28"]()
    assert tool.main([replace(made, config=made.config | {"colour": "red"}).write(tmp_path)]) == 0
    assert "note: config fields without a meaning here: colour" in capsys.readouterr().out


def test_files_that_cannot_be_run_take_one_line_each_and_the_others_still_run(tool, made, tmp_path, capsys):
    good = made.write(tmp_path, "webssl_features_c")
    unknown = made.write(tmp_path, "webssl_pictures")
    alone = Path(made.write(tmp_path, "webssl_features_d"))
    alone.with_suffix(".json").unlink()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a fixture")
    missing = str(tmp_path / "nowhere.safetensors")
    assert tool.main([unknown, str(alone), str(bad), missing, str(tmp_path / "x.json"), good]) == 2
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert len(errors) == 5
    assert "webssl_pictures: is of no known kind; known are dinov2_features" in errors[0]
    assert "webssl_features_d.json: no such file" in errors[1]
    assert "bad.safetensors: can't be read as a parity fixture" in errors[2]
    assert "nowhere.safetensors: no such file" in errors[3]
    assert "a fixture is a .safetensors file" in errors[4]
    assert captured.out.count("  ok\n") == 2
    assert "6 fixtures on eager: all 2 tensors within their rules; 5 fixtures could not be run" in captured.out


def test_quiet_shows_what_fails_only(tool, made, tmp_path, capsys):
    features = made.tensors["output/features"] + 1
    assert tool.main(["--quiet", changed(made, output__features=features).write(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "output/features" in printed
    assert "output/last_hidden_state" not in printed


def test_help_says_the_rules_and_the_kinds(tool, capsys):
    with pytest.raises(SystemExit, match="0"):
        tool.main(["--help"])
    printed = capsys.readouterr().out
    assert "1e-4 x rms of the reference + 1e-6" in printed
    assert "webssl_features" in printed


def test_every_kind_is_known(tool):
    public = {path.stem for path in FOLDER.glob("*.safetensors")}
    without = {made().kind for made in CASES.values()}
    assert public | without == set(tool.KINDS)
    assert len(tool.KINDS) == 20
