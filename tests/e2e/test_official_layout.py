"""Data as the official loader reads it trains as it is: its manifest of tars pretrains, its JSONL finetunes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raexla import cli
from raexla.data import Chat, ChatRecipe, ChatTokenizer, SquashRecipe, chat_rows
from raexla.data.nano.samples import samples
from raexla.data.source import Source, SourceRecipe
from raexla.obs.metrics import read_metrics
from tests import official_layout, stages, tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two official manifests of the same 96 samples, one whose tars are of one kind each, one whose tars mix them."""
    root = tmp_path_factory.mktemp("official")
    drawn = [
        (official_layout.drawn(f"Generate an image of {sample.captions[0]}"), official_layout.jpeg(sample.image))
        for sample in samples("pretrain", 56)
    ]
    asked = [
        (official_layout.asked(sample.conversation, mark=number % 2 == 0), official_layout.jpeg(sample.image))
        for number, sample in enumerate(samples("understanding", 40))
    ]
    mixed = [pair for pairs in zip(drawn, asked, strict=False) for pair in pairs] + drawn[40:]
    apart = official_layout.write_tars(root / "tars", "blip3o", drawn, per_tar=20)
    apart += official_layout.write_tars(root / "tars", "cambrian", asked, per_tar=20)
    together = official_layout.write_tars(root / "tars", "all", mixed)
    return {
        "root": root,
        "apart": official_layout.write_manifest(root / "wds_manifest.json", apart, 96),
        "mixed": official_layout.write_manifest(
            root / "mixed_wds.json", [f"tars/{Path(tar).name}" for tar in together], 96
        ),
        "encoder": str(tiny.encoder(root / "encoder")),
        "language_model": str(tiny.language(root / "language_model")),
    }


def _train(values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, which must end well and refuse nothing."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(json.dumps(values))
    assert cli.main(["train", str(folder / "recipe.yaml")]) == 0
    run = Path(values["run"]["dir"])
    quarantine = run / "quarantine.jsonl"
    assert not quarantine.exists() or not quarantine.read_text()
    records = list(read_metrics(run))
    assert all(math.isfinite(record["loss"]) for record in records)
    return records


ANSWERS = {"answer_tokens": 16}
"""The data bring their own words before a picture, for which the chat's empty prefix leaves no room."""


def _pretrain(world: dict[str, Any], run: Path, sources: list[dict[str, Any]]) -> dict[str, Any]:
    made = {**world, "pretrain": "", "understanding": ""}
    return stages.pretrain(
        made,
        run,
        data={"sources": sources, "order": {"streams": 4}},
        train={"steps": 3, "global_batch_images": 24},
        chat={"length": 128, "system": "", "answer_prefix": ""},
        losses=ANSWERS,
    )


def test_a_manifest_whose_tars_mix_both_kinds_is_two_sources_and_its_jsonl_finetunes(
    world: dict[str, Any], tmp_path: Path
) -> None:
    sources = [
        {"name": "drawn", "path": world["mixed"], "kind": "caption", "weight": 2},
        {"name": "asked", "path": world["mixed"], "kind": "conversation", "weight": 1},
    ]
    records = _train(_pretrain(world, tmp_path / "run", sources), tmp_path)
    assert [record["step"] for record in records] == [1, 2, 3]

    rows = []
    for number, sample in enumerate(samples("finetune", 40)):
        picture = tmp_path / f"pictures/{number}.jpg"
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(official_layout.jpeg(sample.image))
        path = str(picture) if number % 2 else picture.name  # the official lists have both
        rows.append({"image": path, "conversations": official_layout.drawn(sample.captions[0]), "metadata": {}})
    (tmp_path / "blip3o_60k.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    source = {"name": "blip3o", "path": f"{tmp_path}/blip3o_60k.jsonl", "images": f"{tmp_path}/pictures"}
    values = stages.finetune(
        {**world, "finetune": "", "understanding": ""},
        tmp_path / "tuned",
        tmp_path / "run" / "artifact",
        data={"sources": [source], "order": {"streams": 4}},
        train={"steps": 2, "global_batch_images": 16},
        losses=ANSWERS,
    )
    assert len(_train(values, tmp_path / "second")) == 2


def test_a_manifest_whose_tars_are_of_one_kind_each_is_split_by_their_names(
    world: dict[str, Any], tmp_path: Path
) -> None:
    sources = [
        {"name": "drawn", "path": world["apart"], "only": ["*/blip3o_*"], "kind": "caption", "weight": 2},
        {"name": "asked", "path": world["apart"], "only": ["*/cambrian_*"], "kind": "conversation", "weight": 1},
    ]
    assert len(_train(_pretrain(world, tmp_path / "run", sources), tmp_path)) == 3


def test_an_official_request_makes_the_sequence_that_its_caption_makes(world: dict[str, Any]) -> None:
    tokenizer = ChatTokenizer.load(world["language_model"])
    chat = Chat(ChatRecipe(length=160, conversation_length=96), tokenizer, 16)
    transform, collate = chat_rows(chat, SquashRecipe(size=32))
    source = Source(SourceRecipe(name="drawn", path=world["apart"], only=("*/blip3o_*",)))
    sample = source.load(0, 7, seed=0, epoch=0)
    arrays = collate("generation", [transform(sample, np.random.default_rng(0))])
    wanted = chat.generation(sample.caption or "")
    assert (sample.caption or "").startswith("Generate an image of ")
    assert arrays["tokens"][0].tolist() == wanted.tokens.tolist()
    assert arrays["labels"][0].tolist() == wanted.labels.tolist()
    assert arrays["query_start"][0] == wanted.query_start > 0
