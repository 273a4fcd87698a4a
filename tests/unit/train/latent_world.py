"""A tiny world whose captioned shards hold a few pictures that can't be decoded, and latents made of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raexla.data.nano.samples import samples
from raexla.data.shards import ShardWriter
from raexla.train.latents.run import Stored, Storing
from raexla.train.latents.verb import store_latents
from tests import stages, tiny

DAMAGED = {5: b"no picture", 17: None, 40: b""}
"""Samples and what stands in place of their pictures; None: the first half of it."""


def make(root: Path) -> dict[str, str]:
    """Paths of an encoder, another one, a language model, captions and questions."""
    with ShardWriter(root / "captions", prefix="part/captions", samples_per_shard=13) as writer:
        for number, sample in enumerate(samples("pretrain", 60)):
            assert sample.image is not None
            picture = tiny.png(sample.image)
            if number in DAMAGED:
                picture = DAMAGED[number] if DAMAGED[number] is not None else picture[: len(picture) // 2]
            text = sample.captions[0].encode()
            writer.write(sample.key, {"png": picture, "txt": text, "json": json.dumps({"number": number}).encode()})
    made = {
        "encoder": tiny.encoder(root / "encoder"),
        "other": tiny.encoder(root / "other", seed=1),
        "language_model": tiny.language(root / "language_model"),
        "pretrain": root / "captions",
        "understanding": tiny.shards(root / "questions", "understanding", 24, per_shard=10),
    }
    return {name: str(path) for name, path in made.items()}


def recipe(made: Mapping[str, str], root: Path, latents: Path | None = None, dtype: str = "float32") -> dict[str, Any]:
    """A pretraining recipe on the pictures, or on the latents that lie below a folder."""
    values = stages.pretrain(made, root / "run")
    for source in values["data"]["sources"]:
        source["name"] = {"pretrain": "captions", "understanding": "questions"}[source["name"]]
        if latents is not None:
            source |= {"path": str(latents / source["name"]), "latents": dtype}
    return values


def store(values: Mapping[str, Any], out: Path, *names: str, **storing: Any) -> list[Stored]:
    """`raexla latents` on the recipe."""
    how = Storing(**{"batch_images": 8, "dtype": "float32", **storing})
    return store_latents(stages.resolve(values), str(out), names, how, lambda what, count: lambda more: None)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; of the record what the latents depend on."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    plain = json.loads(found["latents.json"])
    plain.pop("outcome")
    return found | {"latents.json": json.dumps(plain).encode()}
