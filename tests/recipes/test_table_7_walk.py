"""The recipe of 000, Table 7 at full width and 224 px, through its three phases on an XLA device.

Encoder and decoder are cut to two layers and the batch to two pictures; everything else is the recipe's own: SigLIP-2's
class and width, LPIPS and Gram on VGG16, a critic on all of DINO-S/16, bfloat16, three sources. Weights are seeded.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import SiglipVisionConfig, SiglipVisionModel

from raexla.data.nano.write import write_nano
from raexla.models.critic import DinoFeaturesRecipe, build_dino
from raexla.recipe import load
from raexla.runtime import open_runtime
from raexla.train.stages import STAGES, open_task
from tests import stages
from tests.unit.models.encoders.test_released_sizes import SO400M
from tests.vgg import save_vgg16

ROOT = Path(__file__).parents[2]


def _weights(root: Path) -> dict[str, str]:
    """An encoder of two layers saved by transformers, DINO under its own keys, VGG16 under torchvision's."""
    torch.manual_seed(0)
    config = {key: value for key, value in SO400M.items() if key != "model_type"} | {"num_hidden_layers": 2}
    SiglipVisionModel(SiglipVisionConfig(**config)).save_pretrained(root / "siglip2")
    dino = build_dino(DinoFeaturesRecipe(type="dino", size="S_16", path="seeded"), 224).vit
    save_file({name: value.contiguous() for name, value in dino.state_dict().items()}, root / "dino.safetensors")
    return {
        "encoder": str(root / "siglip2"),
        "dino": str(root / "dino.safetensors"),
        "vgg": save_vgg16(root / "vgg16.safetensors"),
    }


def walk(root: str) -> dict[str, Any]:
    """Three steps in each phase."""
    made = _weights(Path(root))
    write_nano(Path(root) / "data", {"decoder": 32}, processes=1)
    sources = [{"name": name, "path": f"{root}/data/decoder", "kind": "image"} for name in ("web", "synthetic", "text")]
    recipe: Any = load(
        "recipes/decoder/siglip2-so400m.yaml",
        STAGES,
        [
            f"run.dir={root}/run", f"codec.encoder.path={made['encoder']}",
            "codec.decoder={size: null, width: 1152, depth: 2, heads: 16, mlp: 4096, patch_size: 14}",
            f"losses.perceptual.backbone={made['vgg']}", f"critic.features.path={made['dino']}",
            f"data={{sources: {sources}, order: {{streams: 2, block: 12}}}}",
            "train={steps: 9, epochs: null, global_batch_images: 2}", "runtime={platform: cpu, devices: 1}",
            "critic_from_epoch=null", "critic_from_step=3", "adversarial_from_epoch=null", "adversarial_from_step=6",
            "eval.every_steps=null",
        ],
    )  # fmt: skip
    runtime = open_runtime(recipe.runtime, recipe.mesh)
    task = open_task(recipe, runtime)
    trace = stages.run_steps(task, runtime, 9)
    return {
        "dtype": recipe.runtime.dtype,
        "phases": trace.phases,
        "scalars": [task.legible(values) for values in trace.scalars],
        "compilations": trace.compilations,
        "fallbacks": runtime.counters().fallbacks,
    }


@pytest.mark.slow
def test_three_steps_in_each_phase(tmp_path: Path, in_process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    done = in_process(walk, str(tmp_path), seconds=1800)
    assert done["dtype"] == "bfloat16"
    assert done["phases"] == ["reconstruction"] * 3 + ["critic"] * 3 + ["adversarial"] * 3
    assert done["fallbacks"] == {}
    for first in (0, 3, 6):
        assert done["compilations"][first + 2] == done["compilations"][first + 1]
    for values in done["scalars"]:
        assert np.isfinite(list(values.values())).all()
        assert {"loss/l1", "loss/perceptual", "loss/gram", "rows/web", "rows/text"} <= values.keys()
    last = done["scalars"][-1]
    assert {"critic/accuracy", "critic/real_std", "gradient_norm/adversarial", "adversarial_weight"} <= last.keys()
    assert done["scalars"][2]["loss"] < done["scalars"][0]["loss"] + 0.5
