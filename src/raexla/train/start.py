"""A closed-form start of the decoder's last layer, so that training begins from the best linear read-out.

The last layer is linear in the decoder's final features, and L2-optimal weights for fixed features are a ridge
regression: sums of outer products over some training pictures, solved once in float64 on the host.
"""

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raexla.nn.patches import patchify
from raexla.recipe import Recipe
from raexla.train.pretrain import image_of

if TYPE_CHECKING:
    from raexla.train.decoder import DecoderTask


class RidgeRecipe(Recipe):
    """Ridge regression from the untrained decoder's final features to pixels."""

    type: Literal["ridge"] = "ridge"
    images: Annotated[int, Field(ge=1)] = 4096
    """Pictures it is fitted on, the first ones of the training order; rounded up to whole batches."""
    strength: Annotated[float, Field(gt=0)] = 0.1
    """Ridge penalty on the weights, in units of one token's contribution."""


def ridge_start(task: "DecoderTask", recipe: RidgeRecipe) -> None:
    """Fit `decoder.head` in place; the decoder must be placed."""
    decoder, runtime = task.decoder, task.runtime
    mean, std = torch.tensor(decoder.mean), torch.tensor(decoder.std)

    def moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            image = image_of(pixels.flatten(0, 1))
            hidden = decoder.norm(
                decoder.blocks(decoder.embed_latent(task.codec.denormalise(task.codec.encode(image))))
            )
            features = hidden[:, 1:].flatten(0, 1)
            planes = [(image[:, c] - float(mean[c])) / float(std[c]) for c in range(3)]
            target = patchify(torch.stack(planes, dim=1), decoder.patch_size).flatten(0, 1)
            features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
            return features.T @ features, features.T @ target

    compiled = runtime.compile(moments)
    size = decoder.head.in_features + 1
    gram, cross = np.zeros((size, size)), np.zeros((size, decoder.head.out_features))
    with task.open_loader(None) as loader:
        for _ in range(-(-recipe.images // task.batch_images)):
            placed = runtime.put({"pixels": next(loader).arrays["pixels"]})
            more = compiled(placed["pixels"])
            gram += runtime.to_host(more[0]).astype(np.float64)
            cross += runtime.to_host(more[1]).astype(np.float64)
    gram, cross = (runtime.sum_over_processes(torch.from_numpy(total)).numpy() for total in (gram, cross))
    penalty = recipe.strength * np.eye(size)
    penalty[-1, -1] = 0.0
    solved = np.linalg.solve(gram + penalty, cross)
    runtime.assign(decoder.head.weight, solved[:-1].T.astype(np.float32))
    runtime.assign(decoder.head.bias, solved[-1].astype(np.float32))
    runtime.finish()
