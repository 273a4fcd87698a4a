"""Codecs as a user has them: run directories and artifacts of the real kinds, tiny and random."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from raexla.checkpoint import write_artifact
from raexla.eval.reconstruct import Reconstructor
from raexla.models.codecs import AlignTokCodecRecipe, RAECodecRecipe, build_codec
from raexla.models.codecs.aligntok import init_weights as init_aligntok
from raexla.models.decoder import DecoderRecipe, ViTDecoder, init_weights
from raexla.models.encoders import Siglip2Recipe
from raexla.recipe import ArtifactReference
from raexla.runtime import XlaRecipe, open_runtime
from raexla.sampling.codec import encoder_identity, open_codec
from raexla.sampling.named_codec import find_codec
from tests.unit.models.codecs.makers import codec_recipe
from tests.unit.sampling.tiny import DECODER, save_encoder


def save_rae(root: Path, decoder: DecoderRecipe = DECODER) -> Path:
    """`root/encoder` and `root/run`, which holds a decoder's artifact as training leaves it; returns the run."""
    encoder = Siglip2Recipe(type="siglip2", path=save_encoder(root / "encoder"))
    codec = RAECodecRecipe(type="rae", encoder=encoder, decoder=decoder)
    model = ViTDecoder(decoder, (4, 4), 24, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    init_weights(model, torch.Generator().manual_seed(0))
    facts = {"encoder": encoder_identity(encoder.path), "grid": [4, 4], "channels": 24, "statistics": None}
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    meta = {"recipe": {"codec": codec.model_dump(mode="json")}}
    described = {**facts, "decoder": decoder.model_dump(mode="json")}
    write_artifact(root / "run" / "artifact", "decoder", weights, described, meta)
    (root / "run" / "recipe.yaml").write_text("stage: decoder\n")
    return root / "run"


def save_aligntok(root: Path) -> Any:
    """An artifact of kind aligntok under `root`; returns the codec's recipe."""
    recipe = codec_recipe("aligntok", root / "dino")
    assert isinstance(recipe, AlignTokCodecRecipe)
    codec: Any = build_codec(recipe)
    init_aligntok(codec, torch.Generator().manual_seed(0))
    weights = {name: value.detach().numpy() for name, value in codec.state_dict().items()}
    write_artifact(root / "aligntok", "aligntok", weights, {}, {})
    return recipe.model_copy(update={"weights": ArtifactReference(path=str(root / "aligntok"))})


def save_statistics(folder: Path, facts: dict[str, Any]) -> ArtifactReference:
    """Statistics of a latent with these facts."""
    shape = (1, facts["channels"])
    arrays = {"mean": np.zeros(shape, dtype=np.float32), "var": np.ones(shape, dtype=np.float32)}
    write_artifact(folder, "statistics", arrays, {"encoder": facts["encoder"]}, {})
    return ArtifactReference(path=str(folder))


def reconstructed_on_xla(run: str, pixels: list[Any]) -> list[Any]:
    """Reconstructions on two devices, three at a time; compilations and fallbacks of a second call."""
    opened, runtime = open_codec(find_codec(run)), open_runtime(XlaRecipe(platform="cpu", devices=2))
    runtime.place(opened.codec)
    reconstruct = Reconstructor(opened.codec, runtime, batch_images=3)
    out = reconstruct(np.array(pixels, dtype=np.uint8))
    before = runtime.counters()
    reconstruct(np.array(pixels[::-1], dtype=np.uint8))
    after = runtime.counters()
    return [out.tolist(), after.compilations - before.compilations, after.fallbacks]
