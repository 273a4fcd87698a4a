"""What an import asks for, refuses and recognises; on tiny folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from raexla import cli
from raexla.formats import ImportOptions, import_released
from raexla.nn.timestep import fourier_frequencies
from raexla.recipe import UserError
from tests import released, tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder and a language model."""
    root = tmp_path_factory.mktemp("import")
    tiny.encoder(root / "encoder")
    tiny.language(root / "language")
    return root


def options(made: Path, **values: Any) -> ImportOptions:
    return ImportOptions(encoder=str(made / "encoder"), **values)


def arrays(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("how", ["sharded", "safetensors", "bin"])
def test_a_model_in_every_file_layout(how: str, made: Path, tmp_path: Path) -> None:
    state = released.save_scale_rae(tmp_path / "t2i", made / "language", how=how)
    import_released(tmp_path / "t2i", tmp_path / "model", options(made))
    ours = arrays(tmp_path / "model")
    assert torch.equal(ours["dit.t_embedder.W"], fourier_frequencies())
    assert torch.equal(ours["mllm.queries"], state["model.latent_queries"])
    at = "diff_head.model.dit_blocks.1.adaLN_modulation.1.bias"
    assert torch.equal(ours["dit.blocks.1.adaln.linear.bias"], state[at])
    assert "mllm.lm_head.weight" not in ours
    assert not (tmp_path / "model" / "lm_head.weight").exists()


def test_narrower_weights_are_widened_exactly(made: Path, tmp_path: Path) -> None:
    state = released.save_decoder(tmp_path / "decoder")
    half = {key: value.bfloat16() for key, value in state.items() if key != "decoder_pos_embed"}
    torch.save(half, tmp_path / "decoder" / "model.pt")
    lines = import_released(tmp_path / "decoder", tmp_path / "out", options(made))
    assert any("39 tensors in torch.bfloat16, widened to float32" in line for line in lines)
    assert "derived, not in the file: decoder_pos_embed" in lines
    ours = arrays(tmp_path / "out")
    assert ours["embed.weight"].dtype == torch.float32
    assert torch.equal(ours["embed.weight"].bfloat16(), half["decoder_embed.weight"])


def test_a_type_that_float32_cannot_hold_is_refused(made: Path, tmp_path: Path) -> None:
    state = released.save_decoder(tmp_path / "decoder")
    torch.save(state | {"decoder_embed.bias": state["decoder_embed.bias"].double()}, tmp_path / "decoder" / "model.pt")
    with pytest.raises(UserError, match=r"decoder_embed\.bias is torch\.float64"):
        import_released(tmp_path / "decoder", tmp_path / "out", options(made))


def changed(tmp_path: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A decoder's folder whose file is changed."""
    state = released.save_decoder(tmp_path / "decoder")
    change(state)
    torch.save(state, tmp_path / "decoder" / "model.pt")
    return tmp_path / "decoder"


def spoil(state: dict[str, Tensor]) -> None:
    del state["decoder_norm.bias"]
    state["extra"] = torch.zeros(1)
    state["decoder_layers.1.output.dense.weight"] = torch.zeros(24, 47)
    state["decoder_pos_embed"] = state["decoder_pos_embed"].flip(-1)


def test_every_problem_is_named_with_exit_2_and_nothing_is_written(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(tmp_path, spoil)
    where = ["--encoder", str(made / "encoder"), "--out", str(tmp_path / "out")]
    assert cli.main(["ckpt", "import", str(folder), *where]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("1 missing, 1 unexpected, 1 mis-shaped, 1 with wrong values")
    assert [line.strip() for line in lines[1:4]] == [
        "missing: decoder_norm.bias",
        "unexpected: extra",
        "wrong shape: decoder_layers.1.output.dense.weight: [24, 47], expected [24, 48]",
    ]
    assert lines[4].strip().startswith("wrong values: decoder_pos_embed: differs from the table for this grid by")
    assert len(lines) == 5
    assert not (tmp_path / "out").exists()


def test_check_writes_nothing(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    released.save_decoder(tmp_path / "decoder")
    source, encoder = str(tmp_path / "decoder"), str(made / "encoder")
    assert cli.main(["ckpt", "import", source, "--encoder", encoder, "--check"]) == 0
    assert "can be imported as an artifact of kind decoder; nothing was written" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder"]
    assert cli.main(["ckpt", "import", source]) == 2
    assert "give --out DIR, or --check" in capsys.readouterr().err


def test_an_output_head_that_should_be_tied_and_is_not(made: Path, tmp_path: Path) -> None:
    state = released.save_scale_rae(tmp_path / "t2i", made / "language", how="bin")
    part = {"lm_head.weight": state["lm_head.weight"] + 1}
    index = json.loads((tmp_path / "t2i" / "pytorch_model.bin.index.json").read_text())
    file = tmp_path / "t2i" / index["weight_map"]["lm_head.weight"]
    torch.save(torch.load(file, weights_only=True) | part, file)
    with pytest.raises(UserError, match=r"lm_head\.weight: is not the same as model\.embed_tokens\.weight"):
        import_released(tmp_path / "t2i", tmp_path / "model", options(made))
    config = json.loads((tmp_path / "t2i" / "config.json").read_text())
    (tmp_path / "t2i" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    import_released(tmp_path / "t2i", tmp_path / "model", options(made))
    assert torch.equal(arrays(tmp_path / "model")["mllm.lm_head.weight"], part["lm_head.weight"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"vision_loss": "regression-loss"}, "vision_loss 'regression-loss'"),
        ({"vision_loss_mode": "block"}, "vision_loss_mode 'block'"),
        ({"diffusion_model_z_channels": 0}, "without a connector"),
        ({"diffusion_model_heads": None}, "does not say diffusion_model_heads"),
        ({"num_attention_heads": None}, "does not say num_attention_heads"),
        ({"tokenizer_model_max_length": None}, "say --length"),
        ({"diffusion_norm_stats_path": "stats.pt"}, r"names latent statistics \(stats\.pt\).*--statistics"),
        ({"diffusion_model_channels": 64}, "latent with 64 channels, but --encoder .* gives 24"),
        ({"vocab_size": 300}, "the tokenizer has ids up to"),
        ({"diffusion_model_depth": 1}, r"0 missing, 12 unexpected[^$]*unexpected: diff_head\.model\.dit_blocks\.1\."),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
    ],
)
def test_a_configuration_that_says_too_little_or_something_else(
    changes: dict[str, Any], match: str, made: Path, tmp_path: Path
) -> None:
    released.save_scale_rae(tmp_path / "t2i", made / "language")
    file = tmp_path / "t2i" / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(UserError, match=match):
        import_released(tmp_path / "t2i", tmp_path / "model", options(made))


def test_heads_come_from_the_configuration(made: Path, tmp_path: Path) -> None:
    """No tensor but the rotation tables tells them, and these are checked against it."""
    released.save_scale_rae(tmp_path / "t2i", made / "language")
    file = tmp_path / "t2i" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"diffusion_model_heads": 4}))
    with pytest.raises(UserError, match=r"wrong shape: diff_head\.model\.feat_rope\.freqs_cos: \[16, 16\], expected"):
        import_released(tmp_path / "t2i", tmp_path / "model", options(made))


def test_the_encoder_is_asked_for(made: Path, tmp_path: Path) -> None:
    released.save_scale_rae(tmp_path / "t2i", made / "language")
    with pytest.raises(UserError, match="'google/siglip2-tiny': give its folder or hub name by --encoder"):
        import_released(tmp_path / "t2i", tmp_path / "model", ImportOptions())
    (tmp_path / "dino").mkdir()
    (tmp_path / "dino" / "config.json").write_text(json.dumps(ambiguous()))
    with pytest.raises(UserError, match=r"may be dinov2 or webssl: say --encoder-type"):
        import_released(tmp_path / "t2i", tmp_path / "model", ImportOptions(encoder=str(tmp_path / "dino")))
    with pytest.raises(UserError, match=r"--encoder-type mae: .* is siglip2"):
        import_released(tmp_path / "t2i", tmp_path / "model", options(made, encoder_type="mae"))


def ambiguous() -> dict[str, Any]:
    """A `Dinov2Model`, which DINOv2 without registers and WebSSL both are."""
    return {
        "model_type": "dinov2", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8,
        "image_size": 32,
    }  # fmt: skip


def test_a_decoder_without_a_configuration_asks_for_its_size(made: Path, tmp_path: Path) -> None:
    released.save_decoder(tmp_path / "decoder", config=False)
    with pytest.raises(UserError, match=r"there is no config\.json beside this decoder.*--size.*--config"):
        import_released(tmp_path / "decoder", tmp_path / "out", options(made))
    with pytest.raises(UserError, match=r"wrong shape: decoder_embed\.weight: \[24, 24\], expected \[768, 24\]"):
        import_released(tmp_path / "decoder", tmp_path / "out", options(made, size="B"))
    released.save_decoder(tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    import_released(tmp_path / "decoder", tmp_path / "out", options(made, config=config))


def test_a_training_checkpoint_says_which_weights(made: Path, tmp_path: Path) -> None:
    state = released.save_dit_dh(tmp_path / "dit.pt")
    key = "final_layer.linear.bias"
    for chosen, wanted in ((None, state[key]), ("ema", state[key]), ("model", state[key] + 1)):
        out = tmp_path / f"out-{chosen}"
        # the raw weights' tables are off by one here, too
        if chosen == "model":
            with pytest.raises(UserError, match="wrong values: pos_embed"):
                import_released(tmp_path / "dit.pt", out, options(made, statistics="none", state=chosen))
            continue
        import_released(tmp_path / "dit.pt", out, options(made, statistics="none", state=chosen))
        assert torch.equal(arrays(out)[key], wanted)
        assert json.loads((out / "artifact.json").read_text())["meta"]["imported"]["state"] == "ema"
    torch.save({"model": state}, tmp_path / "raw.pt")
    with pytest.raises(UserError, match="no EMA: say --state model"):
        import_released(tmp_path / "raw.pt", tmp_path / "out", options(made, statistics="none"))
    import_released(tmp_path / "raw.pt", tmp_path / "out", options(made, statistics="none", state="model"))
    released.save_dit_dh(tmp_path / "bare.pt", nested=False)
    with pytest.raises(UserError, match=r"--state ema: .* holds one state dict only"):
        import_released(tmp_path / "bare.pt", tmp_path / "no", options(made, statistics="none", state="ema"))


def test_a_dit_asks_for_its_statistics_and_heads(made: Path, tmp_path: Path) -> None:
    released.save_dit_dh(tmp_path / "dit.pt", tables=False)
    with pytest.raises(UserError, match="say --heads"):
        import_released(tmp_path / "dit.pt", tmp_path / "out", options(made))
    heads = {"heads": 2, "head_heads": 2}
    with pytest.raises(UserError, match=r"stat\.pt.*--statistics \(or --statistics none"):
        import_released(tmp_path / "dit.pt", tmp_path / "out", options(made, **heads))
    lines = import_released(tmp_path / "dit.pt", tmp_path / "out", options(made, statistics="none", **heads))
    assert any(line.startswith("derived, not in the file: dec_feat_rope.freqs_cos") for line in lines)
    assert any("no --decoder" in line for line in lines)
    with pytest.raises(UserError, match="--classes 7: the label table has 11 rows"):
        import_released(tmp_path / "dit.pt", tmp_path / "out2", options(made, statistics="none", classes=7, **heads))
    import_released(tmp_path / "dit.pt", tmp_path / "out2", options(made, statistics="none", classes=11, **heads))
    assert json.loads((tmp_path / "out2" / "dit.json").read_text())["dit"]["condition_dropout"] == 0


def test_statistics_in_both_layouts(made: Path, tmp_path: Path) -> None:
    state = released.save_statistics(tmp_path / "stat.pt")
    import_released(tmp_path / "stat.pt", tmp_path / "grid", options(made))
    ours = arrays(tmp_path / "grid")
    assert torch.equal(ours["mean"][5], state["mean"][:, 1, 1])  # token 5 of 4 x 4: row 1, column 1
    tokens = {f"running_{name}": ours[name][None] for name in ("mean", "var")}
    torch.save(tokens, tmp_path / "running.pt")
    import_released(tmp_path / "running.pt", tmp_path / "tokens", options(made))
    assert all(torch.equal(arrays(tmp_path / "tokens")[name], ours[name]) for name in ours)
    torch.save({"mean": state["mean"], "var": -state["var"]}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="variance is not positive"):
        import_released(tmp_path / "bad.pt", tmp_path / "out", options(made))
    torch.save({"mean": state["mean"], "std": state["var"]}, tmp_path / "std.pt")
    with pytest.raises(UserError, match="found mean, std"):
        import_released(tmp_path / "std.pt", tmp_path / "out", options(made), kind="statistics")


def test_dino_goes_there_and_back_and_is_what_the_critic_reads(made: Path, tmp_path: Path) -> None:
    from raexla.formats import ExportOptions, export_artifact
    from raexla.models.critic import DinoFeaturesRecipe, build_dino, load_dino

    recipe = DinoFeaturesRecipe(type="dino", size="S_8", path="")
    state = build_dino(recipe, 224).vit.state_dict()
    torch.manual_seed(0)
    state = {key: torch.randn_like(value) for key, value in state.items()}
    official = state | {"x_scale": torch.ones(1, 3, 1, 1), "x_shift": torch.zeros(1, 3, 1, 1)}
    source = tmp_path / "dino_vit_small_patch8_224.pth"
    torch.save(official, source, _use_new_zipfile_serialization=False)  # as DINO's own files are
    lines = import_released(source, tmp_path / "dino", ImportOptions())
    assert "in the file, not used: x_scale, x_shift" in lines
    critic = load_dino(recipe.model_copy(update={"path": str(tmp_path / "dino")}), 224)
    assert all(torch.equal(value, state[key]) for key, value in critic.vit.state_dict().items())
    export_artifact(tmp_path / "dino", tmp_path / "out", "hf", ExportOptions())
    back = torch.load(tmp_path / "out" / source.name, weights_only=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_a_tokenizer_in_its_older_form(made: Path, tmp_path: Path) -> None:
    """`vocab.json`, `merges.txt` and `added_tokens.json`, as transformers 4.37's slow tokenizer saves them."""
    from tokenizers import Tokenizer

    released.save_scale_rae(tmp_path / "t2i", made / "language")
    model = json.loads((made / "language" / "tokenizer.json").read_text())["model"]
    marks = [entry for entry in model["vocab"] if entry.startswith("<") and entry.endswith(">") and len(entry) > 3]
    pieces = [piece for piece in sorted(model["vocab"], key=model["vocab"].get) if piece not in marks]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    # as in Qwen2.5 they follow the vocabulary, but in an order that nothing but this table tells
    added = {mark: len(pieces) + number for number, mark in enumerate(sorted(marks, reverse=True))}
    folder = tmp_path / "t2i"
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    import_released(folder, tmp_path / "model", options(made))
    found = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    assert len(marks) == 5
    assert {mark: found.token_to_id(mark) for mark in added} == added
    before = Tokenizer.from_file(str(made / "language" / "tokenizer.json"))
    assert found.encode("two blue squares").tokens == before.encode("two blue squares").tokens
    assert found.encode("<im_start>a<|im_end|>").tokens == ["<im_start>", "a", "<|im_end|>"]
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor merges\.txt"):
        import_released(folder, tmp_path / "again", options(made))


def test_a_tokenizer_of_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    released.save_scale_rae(tmp_path / "t2i", made / "language")
    file = tmp_path / "t2i" / "tokenizer.json"
    file.write_text(file.read_text().replace("<im_start>", "<other>"))
    with pytest.raises(UserError, match="the tokenizer has no <im_start>"):
        import_released(tmp_path / "t2i", tmp_path / "model", options(made))


def test_what_it_is_is_recognised_or_asked_for(made: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"not recognised by its keys \(2, such as a, b\)"):
        import_released(tmp_path / "other.pt", tmp_path / "out", options(made))
    with pytest.raises(UserError, match=r"missing: x_embedder\.proj\.weight"):
        import_released(tmp_path / "other.pt", tmp_path / "out", options(made), kind="dit")
    released.save_decoder(tmp_path / "decoder")
    import_released(tmp_path / "decoder", tmp_path / "out", options(made))
    with pytest.raises(UserError, match="is an artifact already"):
        import_released(tmp_path / "out", tmp_path / "again", options(made))
    with pytest.raises(UserError, match="exists already"):
        import_released(tmp_path / "decoder", tmp_path / "out", options(made))
    with pytest.raises(UserError, match="does not exist"):
        import_released(tmp_path / "nothing", tmp_path / "again", options(made))
