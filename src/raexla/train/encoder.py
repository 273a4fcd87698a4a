"""The nano encoder: a `SiglipVisionModel` trained on captioned scenes. Nano only: real encoders come pretrained.

B: rows, N: patches, C: width, P: pixels of a patch. Three losses: SigLIP's sigmoid loss between pictures and captions;
cross-entropy of what stands in each patch (shape x colour, or nothing), read linearly from the final tokens; and a
linear pixel read-out from the same tokens. The last makes the encoder partly an autoencoder: a real SigLIP-2 keeps
pixels in its tokens by its scale, one of 48 channels trained for minutes does not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.checkpoint import write_artifact
from raexla.data import ChatTokenizer, ImageTransformRecipe, Loader
from raexla.data.nano.rows import ToSceneRow, scene_rows
from raexla.data.nano.scenes import COLORS, SHAPES
from raexla.models.flops import vision_work
from raexla.models.pretrained import saved_files
from raexla.nn.patches import patchify
from raexla.optim import OptimizerRecipe, Part
from raexla.recipe import Recipe
from raexla.runtime import Runtime
from raexla.train.base import StageRecipe
from raexla.train.pretrain import image_of
from raexla.train.task import Batch, Task, gradients, summed


class EncoderModelRecipe(Recipe):
    """Sizes."""

    width: Annotated[int, Field(ge=4)] = 48
    depth: Annotated[int, Field(ge=1)] = 3
    heads: Annotated[int, Field(ge=1)] = 4
    mlp: Annotated[int, Field(ge=1)] = 384
    image_size: Annotated[int, Field(ge=8)] = 32
    patch_size: Annotated[int, Field(ge=1)] = 8
    tokenizer: str
    """Folder of the tokenizer that the text tower reads captions with."""
    text_tokens: Annotated[int, Field(ge=4)] = 40
    """Tokens of a caption; longer ones are refused."""


class EncoderLossRecipe(Recipe):
    """Weights of the three losses."""

    contrastive: float = 1.0
    patches: float = 1.0
    pixels: float = 4.0


class EncoderOptimRecipe(Recipe):
    """One optimiser."""

    encoder: OptimizerRecipe


class EncoderRecipe(StageRecipe):
    """The stage `encoder`."""

    stage: Literal["encoder"]
    model: EncoderModelRecipe
    transform: ImageTransformRecipe
    losses: EncoderLossRecipe = EncoderLossRecipe()
    optim: EncoderOptimRecipe


class TextTower(nn.Module):
    """Caption tokens [B, L] -> [B, C]: embedding, one transformer layer, mean over the tokens that are no padding."""

    def __init__(self, vocabulary: int, tokens: int, width: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.out = nn.Linear(width, width)
        self.heads = heads

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens, valid [B, L] (valid: bool) -> [B, C]."""
        x = self.embed(tokens.long()) * 0.3 + self.positions
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None, :])
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        weight = valid.float()[..., None]
        return self.out((x * weight).sum(1) / weight.sum(1).clamp(min=1.0))


class Towers(nn.Module):
    """Everything that is trained; only `vision` is kept."""

    def __init__(self, recipe: EncoderModelRecipe, vocabulary: int) -> None:
        from transformers import SiglipVisionConfig, SiglipVisionModel  # seconds to import

        super().__init__()
        config = SiglipVisionConfig(
            hidden_size=recipe.width,
            intermediate_size=recipe.mlp,
            num_hidden_layers=recipe.depth,
            num_attention_heads=recipe.heads,
            image_size=recipe.image_size,
            patch_size=recipe.patch_size,
        )
        self.vision = SiglipVisionModel(config)
        self.text = TextTower(vocabulary, recipe.text_tokens, recipe.width, recipe.heads)
        self.patch_class = nn.Linear(recipe.width, 1 + len(SHAPES) * len(COLORS))
        self.pixels = nn.Linear(recipe.width, 3 * recipe.patch_size**2)
        self.scale, self.bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-5.0))


def init_towers(towers: Towers, generator: torch.Generator) -> None:
    """Linears and embeddings N(0, 1/fan-in) and N(0, 1), positions N(0, 0.02), norms 1, biases 0."""
    for module in towers.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.normal_(module.in_proj_weight, std=module.embed_dim**-0.5, generator=generator)
            nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02 if module is not towers.text.embed else 1.0, generator=generator)
    for name, parameter in towers.named_parameters():
        if name.endswith((".probe", "text.positions")):
            nn.init.normal_(parameter, std=0.02, generator=generator)


class EncoderTask(Task):
    """The stage `encoder`."""

    def __init__(self, recipe: EncoderRecipe, runtime: Runtime) -> None:
        super().__init__(recipe, runtime)
        self.recipe = recipe
        self.tokenizer = ChatTokenizer.load(recipe.model.tokenizer)
        self.towers = Towers(recipe.model, self.tokenizer.size)
        init_towers(self.towers, torch.Generator().manual_seed(recipe.run.seed))
        self._whiten()
        runtime.place(self.towers)
        self.own("", self.towers)
        named = dict(self.towers.named_parameters())
        self.parts = [Part("encoder", recipe.optim.encoder, named, runtime, self.steps, epoch_steps=self.epoch_steps)]

    def _whiten(self) -> None:
        """Start the patch embedding from the principal components of patches, whitened: all detail comes in."""
        with self.open_loader(None) as loader:
            pixels = np.concatenate([next(loader).arrays["pixels"] for _ in range(-(-1024 // self.batch_images))])
        image = image_of(torch.from_numpy(pixels)).double() * 2 - 1
        patch = self.recipe.model.patch_size
        rows = patchify(image, patch).flatten(0, 1)
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        kept = min(self.recipe.model.width, len(values))
        order = torch.argsort(values, descending=True)[:kept]
        basis = vectors[:, order].T
        basis = basis * torch.sign(basis.gather(1, basis.abs().argmax(1, keepdim=True)))  # eigenvectors have no sign
        matrix = 0.5 * basis / (values[order].clamp(min=0).sqrt()[:, None] + 0.02)
        embedding: Any = self.towers.vision.get_submodule("embeddings.patch_embedding")
        with torch.no_grad():
            embedding.weight.zero_()
            # (row, column, channel) inside a patch -> the convolution's (channel, row, column)
            embedding.weight[:kept] = matrix.view(kept, patch, patch, 3).permute(0, 3, 1, 2).float()
            embedding.bias.zero_()
            embedding.bias[:kept] = -(matrix @ mean).float()

    def open_loader(self, cursor: Mapping[str, Any] | None) -> Loader:
        model = self.recipe.model
        sizes = model.text_tokens, model.image_size, model.patch_size
        transform = ToSceneRow(self.recipe.transform, self.tokenizer, *sizes)
        return self.loader(transform, scene_rows, cursor, {"caption": ""})

    def train_step(self, phase: str, batch: Batch, controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        part, total = self.parts[0], None
        scalars: list[dict[str, Tensor]] = []
        for micro in self.micro_batches(batch):
            values = self._losses(micro)
            total = gradients(values["loss"], list(part.parameters.values()), total)
            scalars.append(values)
        assert total is not None
        return {**self.over_processes(summed(scalars)), **part.update(total, controls)}

    def _losses(self, micro: Batch) -> dict[str, Tensor]:
        """The contrastive loss is that of the micro-batch's own pairs, as in SigLIP's chunked form."""
        model, weights, towers = self.recipe.model, self.recipe.losses, self.towers
        image = image_of(micro["pixels"]) * 2 - 1
        output = towers.vision(pixel_values=image, output_hidden_states=True)
        tokens = F.layer_norm(output.hidden_states[-1], (model.width,), eps=1e-6)
        valid = torch.arange(model.text_tokens, device=image.device)[None] < micro["length"][:, None]
        seen = F.normalize(output.pooler_output, dim=-1)
        read = F.normalize(towers.text(micro["tokens"], valid), dim=-1)
        logits = seen @ read.T * towers.scale.exp() + towers.bias
        same = 2 * torch.eye(len(logits), device=image.device) - 1
        share = 1.0 / (self.accumulate * self.runtime.loss_shards)
        values = {
            "contrastive": -F.logsigmoid(logits * same).sum(1).mean() * share,
            "patches": F.cross_entropy(towers.patch_class(tokens).flatten(0, 1), micro["classes"].flatten().long())
            * share,
        }
        error = towers.pixels(tokens) - patchify(image, model.patch_size)
        values["pixels"] = (error.abs().mean() + error.square().mean()) * share
        loss = sum(getattr(weights, name) * value for name, value in values.items())
        assert isinstance(loss, Tensor)
        right = (logits.argmax(1) == torch.arange(len(logits), device=image.device)).float().mean() * share
        return {"loss": loss, **{f"loss/{name}": value for name, value in values.items()}, "retrieval": right}

    def export(self, path: Path, meta: Mapping[str, Any]) -> str:
        from transformers import SiglipVisionModel

        vision: Any = SiglipVisionModel(self.towers.vision.config)
        state = {n: torch.from_numpy(self.runtime.to_host(p)) for n, p in self.towers.vision.state_dict().items()}
        vision.load_state_dict(state)
        model = self.recipe.model
        facts = {"grid": [model.image_size // model.patch_size] * 2, "channels": model.width}
        return write_artifact(path, "encoder", {}, facts, meta, saved_files(vision))

    def flops_per_step(self) -> float:
        model = self.recipe.model
        one = vision_work(self.towers.vision.config, model.image_size // model.patch_size)
        return 6.0 * self.batch_images * one.total
