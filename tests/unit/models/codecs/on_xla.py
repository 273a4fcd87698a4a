"""What the tests of codecs run in a fresh process with XLA devices."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raexla.models.codecs.aligntok import sharding_table
from raexla.runtime import XlaRecipe, open_runtime
from raexla.runtime.sharding import resolve
from tests.unit.models.codecs.makers import ON_XLA, build


def image_for(codec: Any, seed: int = 0) -> Tensor:
    """Two images [2, 3, S, S] of a codec's size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, codec.image_size, codec.image_size, generator=generator)


def decoder_gradient(codec: Any, image: Tensor) -> Tensor:
    """The gradient at an AlignTok decoder's first convolution, through everything behind it."""
    loss = codec.decode(codec.normalise(codec.code(image))).square().mean()
    return torch.autograd.grad(loss, codec.decoder.conv_in.weight)[0]


def codecs_on_xla(folder: str) -> dict[str, Any]:
    """Each kind's latent and picture, AlignTok's gradient with sharded weights, compilations of a second call, and what
    fell back to the CPU."""
    runtime = open_runtime(XlaRecipe(platform="cpu", devices=2))
    out: dict[str, Any] = {}
    for kind in ON_XLA:
        codec = build(kind, Path(folder) / kind)
        table = sharding_table(codec) if kind == "aligntok" else None
        if table is not None:
            resolve(table, {name: tuple(p.shape) for name, p in codec.named_parameters()})
        runtime.place(codec, table)

        def there_and_back(image: Tensor, codec: Any = codec) -> tuple[Tensor, Tensor]:
            latent = codec.encode(image[0])
            with torch.no_grad():
                return latent, codec.decode(latent)

        compiled = runtime.compile(there_and_back)
        latent, picture = compiled(runtime.put({"image": image_for(codec).numpy()})["image"])
        out[kind] = [runtime.to_host(latent).tolist(), runtime.to_host(picture).tolist()]
        before = runtime.counters().compilations
        compiled(runtime.put({"image": image_for(codec, 1).numpy()})["image"])
        out[f"{kind} again"] = runtime.counters().compilations - before
        if kind == "aligntok":
            gradient = runtime.compile(lambda image, codec=codec: decoder_gradient(codec, image[0]))
            made = gradient(runtime.put({"image": image_for(codec).numpy()})["image"])
            out["gradient"] = runtime.to_host(made).tolist()
    out["fallbacks"] = runtime.counters().fallbacks
    return out
