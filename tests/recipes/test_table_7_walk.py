"""The recipe of 000, Table 7 at full width and 224 px, through its three phases on an XLA device, by the command line.

Encoder and decoder are cut to two layers and the batch to two pictures; everything else is the recipe's own: SigLIP-2's
class and width, LPIPS and Gram on VGG16, a critic on all of DINO-S/16, bfloat16, three sources. What comes out is
measured with LPIPS and with torch-fidelity's Inception. All weights are seeded.
"""

import io
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import SiglipVisionConfig, SiglipVisionModel

from raexla import cli
from raexla.data.nano.write import write_nano
from raexla.models.critic import DinoFeaturesRecipe, build_dino
from raexla.obs.metrics import read_metrics
from tests.unit.eval.test_reconstruct_measures import Bare
from tests.unit.models.encoders.test_released_sizes import SO400M
from tests.vgg import save_vgg16

ROOT = Path(__file__).parents[2]


def _weights(root: Path) -> dict[str, str]:
    """An encoder of two layers saved by transformers, DINO under its own keys, VGG16 under torchvision's, Inception."""
    torch.manual_seed(0)
    config = {key: value for key, value in SO400M.items() if key != "model_type"} | {"num_hidden_layers": 2}
    SiglipVisionModel(SiglipVisionConfig(**config)).save_pretrained(root / "siglip2")
    dino = build_dino(DinoFeaturesRecipe(type="dino", size="S_16", path="seeded"), 224).vit
    save_file({name: value.contiguous() for name, value in dino.state_dict().items()}, root / "dino.safetensors")
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    inception = Bare("inception", ["2048"], feature_extractor_weights_path=empty)
    save_file(inception.state_dict(), root / "inception.safetensors")
    return {
        "encoder": str(root / "siglip2"),
        "dino": str(root / "dino.safetensors"),
        "vgg": save_vgg16(root / "vgg16.safetensors"),
        "inception": str(root / "inception.safetensors"),
    }


def _settings(root: str, made: dict[str, str]) -> list[str]:
    """What `--set` says: where weights and data are, two layers, two pictures, three steps a phase."""
    sources = [{"name": name, "path": f"{root}/data/decoder", "kind": "image"} for name in ("web", "synthetic", "text")]
    return [
        f"codec.encoder.path={made['encoder']}",
        "codec.decoder={size: null, width: 1152, depth: 2, heads: 16, mlp: 4096, patch_size: 14}",
        f"losses.perceptual.backbone={made['vgg']}", f"critic.features.path={made['dino']}",
        f"data.sources={json.dumps(sources)}", "data.order={streams: 2, block: 12}",
        "train.steps=9", "train.epochs=null", "train.global_batch_images=2",
        "critic_from_epoch=null", "critic_from_step=3", "adversarial_from_epoch=null", "adversarial_from_step=6",
        "runtime.platform=cpu", "runtime.devices=1",
        "eval.every_steps=9", f"eval.source.path={root}/data/decoder", "eval.images=2",
        "checkpoint.every_steps=9", "obs.log_every_steps=1",
    ]  # fmt: skip


def walk(root: str) -> dict[str, Any]:
    """Train, then measure."""
    made = _weights(Path(root))
    write_nano(Path(root) / "data", {"decoder": 32}, processes=1)
    options = [part for setting in _settings(root, made) for part in ("--set", setting)]
    began = time.monotonic()
    trained = cli.main(["train", "recipes/decoder/siglip2-so400m.yaml", "--out", f"{root}/run", *options])
    seconds = time.monotonic() - began
    import torch_xla.debug.metrics as met

    fallbacks = [name for name in met.counter_names() if name.startswith("aten::") and "_local_scalar" not in name]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    measured = cli.main([
        "reconstruct", f"{root}/data/decoder", "--codec", f"{root}/run", "--out", f"{root}/measured", "--limit", "4",
        "--runtime", "eager", "--batch", "2", "--lpips", made["vgg"], "--features", made["inception"],
    ])  # fmt: skip
    return {"codes": [trained, measured], "fallbacks": fallbacks, "seconds": seconds, "peak_gib": peak}


@pytest.mark.slow
def test_three_steps_in_each_phase(tmp_path: Path, in_process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    done = in_process(walk, str(tmp_path), seconds=7200)  # four minutes of one core, if it has one
    print(f"training took {done['seconds']:.0f} s and {done['peak_gib']:.1f} GiB")
    assert done["codes"] == [0, 0]
    assert done["fallbacks"] == []
    assert done["peak_gib"] < 12
    records = list(read_metrics(tmp_path / "run"))
    steps = [record for record in records if "loss" in record]
    assert [record["phase"] for record in steps] == ["reconstruction"] * 3 + ["critic"] * 3 + ["adversarial"] * 3
    assert [(e["step"], e["phase"]) for e in records if e.get("event") == "phase"] == [
        (4, "critic"),
        (7, "adversarial"),
    ]
    compiled = [record["compilations"] for record in steps]  # a record is written when the next step is on its way
    first = compiled[0]
    assert compiled == [first] * 2 + [first + 1] * 3 + [first + 2] * 4, "a phase compiled more than once"
    for record in steps:
        assert all(np.isfinite(value) for value in record.values() if isinstance(value, float))
        assert {"loss/l1", "loss/perceptual", "loss/gram", "rows/web", "rows/text"} <= record.keys()
    last = steps[-1]
    assert {"critic/accuracy", "critic/real_std", "gradient_norm/adversarial", "adversarial_weight"} <= last.keys()
    assert steps[2]["loss/l1"] < steps[0]["loss/l1"]
    assert {"validation/psnr", "validation/ssim"} <= [r for r in records if "validation/psnr" in r][-1].keys()
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert recipe["runtime"]["dtype"] == "bfloat16"
    overall = json.loads((tmp_path / "measured" / "reconstruct.json").read_text())["overall"]
    assert overall["rfid"] > 0
    assert overall["lpips"]["mean"] > 0
