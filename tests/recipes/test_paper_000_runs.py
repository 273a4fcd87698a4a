"""Paper 000's pretraining and finetuning recipes train, by the command line, with everything but their sizes as it is.

Encoder, language model and VAE are tiny ones of the same classes, the batch is 32 (28 captions, 4 conversations), two
steps are taken. Chat layout, mixture, losses, both optimisers with their schedules and the chain from one stage to the
next are the recipes' own.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from raexla import cli
from raexla.obs.metrics import read_metrics
from tests import stages
from tests.unit.models.codecs.makers import save_vae

ROOT = Path(__file__).parents[2]
FLAGSHIP = "qwen2.5-1.5b-dit-2.4b"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("world")
    return stages.world(root) | {"vae": save_vae(root / "pipeline", flux=True)}


def _small(made: dict[str, str], run: Path, *changes: str) -> list[str]:
    """Options that cut a recipe down to the tiny world."""
    values = [
        "runtime={type: eager, device: cpu}", "transform.size=32", "data.order.streams=4", "data.loader.workers=0",
        "train.global_batch_images=32", "obs.log_every_steps=1", "checkpoint.every_steps=2", "train.steps=2", *changes,
    ]  # fmt: skip
    return ["--out", str(run), *(word for value in values for word in ("--set", value))]


def _train(recipe: str, options: list[str], run: Path) -> list[dict[str, Any]]:
    assert cli.main(["train", f"{ROOT}/recipes/{recipe}.yaml", *options]) == 0
    return [record for record in read_metrics(run) if "loss" in record]


@pytest.mark.parametrize("codec", ["siglip2", "flux"])
def test_pretraining_then_finetuning(codec: str, made: dict[str, str], tmp_path: Path) -> None:
    suffix, frozen = "", [f"codec.encoder.path={made['encoder']}", "codec.encoder.channels=24", "codec.weights=null"]
    if codec == "flux":
        suffix = "-flux"
        frozen = [f"codec.path={made['vae']}", "codec.image_size=32", "codec.pack=4"]
        frozen += [f"understanding.path={made['encoder']}", "understanding.channels=24"]
    sizes = ["size=null", "width=64", "depth=2", "heads=2"]
    model = [f"model.llm.path={made['language_model']}", "model.llm.queries=16", "chat.length=192", "eval.prompts=[]"]
    model += [f"model.dit.{size}" for size in sizes]
    sources = {"web": "pretrain", "synthetic": "decoder", "cambrian": "understanding"}
    data = [f"data.sources.{place}.path={made[of]}" for place, of in enumerate(sources.values())]
    pretrained = tmp_path / "pretrain"
    options = _small(made, pretrained, *frozen, *model, *data)
    steps = _train(f"pretrain/{FLAGSHIP}{suffix}", options, pretrained)
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["loss/language"] > 0 and step["loss/diffusion"] > 0 for step in steps)
    rows = {name: steps[0][f"epochs/{name}"] * stages.COUNTS[of] for name, of in sources.items()}
    assert rows["cambrian"] == pytest.approx(4, abs=0.01)
    assert rows["web"] + rows["synthetic"] == pytest.approx(28, abs=0.01)
    assert {"gradient_norm/llm", "gradient_norm/dit"} <= steps[0].keys()

    tuned = tmp_path / "finetune"
    start = [f"init.path={pretrained}/artifact", f"data.sources.0.path={made['finetune']}", "chat_length=256"]
    steps = _train(
        f"finetune/{FLAGSHIP}{suffix}-64-epochs",
        _small(made, tuned, *start, "train.epochs=null", "eval.prompts=[]"), tuned,
    )  # fmt: skip
    assert {"gradient_norm/llm", "gradient_norm/dit"} <= steps[0].keys()
    described = json.loads((tuned / "artifact" / "model.json").read_text())
    assert described["chat"]["length"] == 256
    assert described["chat"]["instruct"] == "Can you generate an image of {caption}?"
    assert (described["understanding"] is None) == (codec == "siglip2")

    alone = tmp_path / "dit-only"
    steps = _train(
        f"finetune/{FLAGSHIP}{suffix}-dit-only",
        _small(made, alone, *start, "train.epochs=null", "eval.prompts=[]"), alone,
    )  # fmt: skip
    assert "gradient_norm/dit" in steps[0]
    assert "gradient_norm/llm" not in steps[0]
