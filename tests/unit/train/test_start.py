"""The closed-form start of the decoder's last layer against a ridge regression of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import stages

IMAGES, STRENGTH = 32, 0.1


def _opened(made: dict[str, str], folder: Path, **changes: Any) -> Any:
    return stages.open_stage(stages.decoder(made, folder, **changes))[0]


def test_the_last_layer_is_the_ridge_solution(tmp_path: Path) -> None:
    made = stages.world(tmp_path)
    task = _opened(made, tmp_path / "a", start={"type": "ridge", "images": IMAGES, "strength": STRENGTH})
    decoder = task.decoder
    pictures: list[np.ndarray] = []
    with task.open_loader(None) as loader:
        while sum(map(len, pictures)) < IMAGES:
            pictures.append(next(loader).arrays["pixels"].reshape(-1, 32, 32, 3))
    image = torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2).float() / 255
    read: list[torch.Tensor] = []
    hook = decoder.head.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    with torch.no_grad():
        drawn = task.codec.decode(task.codec.encode(image))
    hook.remove()
    features = read[0].numpy().astype(np.float64)
    features = features[:, -16:].reshape(-1, features.shape[-1])
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    mean, std = (np.array(x).reshape(1, 3, 1, 1) for x in (decoder.mean, decoder.std))
    pixels = (image.numpy().astype(np.float64) - mean) / std
    rows = [
        pixels[n, :, y : y + 8, x : x + 8].transpose(1, 2, 0).reshape(-1)
        for n in range(len(pixels))
        for y in range(0, 32, 8)
        for x in range(0, 32, 8)
    ]
    penalty = np.diag([STRENGTH] * (features.shape[1] - 1) + [0.0])
    solved = np.linalg.solve(features.T @ features + penalty, features.T @ np.stack(rows))
    # Directions that the features hardly have are left to rounding: what the layer says is compared, not its weights.
    weight, bias = (x.detach().numpy().astype(np.float64) for x in (decoder.head.weight, decoder.head.bias))
    np.testing.assert_allclose(features[:, :-1] @ weight.T + bias, features @ solved, atol=5e-3)
    residual = np.abs(features @ solved - np.stack(rows)).mean()
    assert residual > 0.05, "an exact fit would not tell the penalty"
    with torch.no_grad():
        plain = _opened(made, tmp_path / "b").codec
        untrained = (plain.decode(plain.encode(image)) - image).abs().mean()
    assert (drawn - image).abs().mean() < 0.5 * untrained
