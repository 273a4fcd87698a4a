"""`tools/parity.py` on every public fixture: all tensors of all of them, eager and on XLA."""

from pathlib import Path

import pytest

from tests.parity.on_xla import failures

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity"
FIXTURES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))

# The transformers are the ones that take long to compile: here one evaluation each, guidance, gradients.
ON_XLA: dict[str, list[str]] = {name: [] for name in FIXTURES} | {
    "rae_ditdh": ["output/v_t_0", "output/ag2_mixed"],
    "scale_rae_dit": ["output/v_0", "grad/dit_blocks.1.attn.qkv.weight"],
    "scale_rae_ddt_wide": ["output/v_0", "output/v_train_drop"],
    "scale_rae_ddt_classic": ["output/v_0", "grad/s_embedder.proj.weight"],
}


def test_the_public_fixtures_stand_here():
    assert len(FIXTURES) == 15
    assert all((FOLDER / f"{name}.json").is_file() for name in FIXTURES)
    assert max((FOLDER / f"{name}.safetensors").stat().st_size for name in FIXTURES) < 3e6


def test_eager(tool, capsys):
    assert tool.main([str(FOLDER / f"{name}.safetensors") for name in FIXTURES]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name}  (kind {name}," in printed for name in FIXTURES)
    assert printed.count("  ok\n") == 175
    assert "FAIL" not in printed
    assert "note:" not in printed
    assert "15 fixtures on eager: all 175 tensors within their rules" in printed


def test_xla(in_process):
    assert in_process(failures, ON_XLA, ["upsample latent 4 to 7", "sampler of 20 steps", "webssl"]) == {
        name: [] for name in [*ON_XLA, "upsample latent 4 to 7", "sampler of 20 steps", "webssl"]
    }


@pytest.mark.slow
def test_xla_every_tensor(in_process):
    everything = {name: [] for name in FIXTURES}
    made = ["lightningdit, patch 2, qk norm", "ditdh", "ddt wide", "ddt classic", "dit, patch 2", "decoder"]
    assert in_process(failures, everything, made, seconds=1200) == {name: [] for name in [*everything, *made]}
