"""The critic, its augmentation and the adversarial losses."""

import re
from typing import Any

import torch
from torch import Tensor

from parity_kinds.base import Runner
from parity_kinds.case import Case
from raexla.losses import adaptive_weight, critic_loss, generator_loss
from raexla.models.critic import AugmentRecipe, Critic, CriticRecipe, DinoFeatures, DinoFeaturesRecipe, augment
from raexla.models.critic.augment import shift_of
from raexla.models.critic.features import load_dino_state
from raexla.models.critic.official import official_names
from raexla.models.official import ReleasedLayout, entries_of
from raexla.recipe import UserError

_PAIRS = {
    "lambda_normal": ("grad_recon", "grad_gan"),
    "lambda_tiny_gan": ("grad_recon", "grad_gan_tiny"),
    "lambda_zero_gan": ("grad_recon", "grad_gan_zero"),
    "lambda_small_recon_zero_gan": ("grad_recon_small", "grad_gan_zero"),
}
"""Output -> the gradients of the reconstruction and of the adversarial loss."""


class AdaptiveWeight(Runner):
    """`rae_adaptive_weight`: lambda of given gradients, and the GAN losses of given logits."""

    element_wise = True

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.eps: float = case.config.get("eps", 1e-6)
        self.limit: float = case.config.get("max_d_weight", 1e4)

    def output(self, name: str) -> Tensor | None:
        real, fake = self.inputs.get("logits_real"), self.inputs.get("logits_fake")
        if real is not None and fake is not None and name in ("hinge_d", "vanilla_d", "vanilla_g"):
            losses = {
                "hinge_d": lambda: critic_loss(real, fake, "hinge"),
                "vanilla_d": lambda: critic_loss(real, fake, "vanilla"),
                "vanilla_g": lambda: generator_loss(fake, "hinge"),  # the official "vanilla" generator is the hinge's
            }
            return losses[name]().reshape(1)
        limit = self.limit
        if found := re.fullmatch(r"lambda_max([\d.]+)", name):
            name, limit = "lambda_normal", float(found[1])
        if name not in _PAIRS or not self.has(*_PAIRS[name]):
            return None
        reconstruction, adversarial = (self.inputs[key] for key in _PAIRS[name])
        return adaptive_weight(reconstruction, adversarial, limit, self.eps).reshape(1)


class DiffAug(Runner):
    """`rae_diffaug`: each operation alone, and together, on given draws."""

    element_wise = True
    alone = ("translation", "brightness", "saturation", "contrast")

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        config = case.config
        config.only("prob", 1.0, 1)
        config.note("image", "image20")
        config.note(*(key for key in config.values() if re.fullmatch(r"image\d*", key)))
        self.cutout = self._share(config.get("cutout", 0.2))

    @staticmethod
    def _share(given: Any) -> float:
        """The cutout's share of the side, a number or a text such as "0 except output/cutout (0.2)"."""
        if isinstance(given, int | float):
            return float(given)
        if found := re.fullmatch(r"0 except output/cutout \(([\d.]+)\)", str(given)):
            return float(found[1])
        raise UserError(f"the config has cutout: {given!r}; here it can be a number or '0 except output/cutout (0.2)'")

    def output(self, name: str) -> Tensor | None:
        if found := re.fullmatch(r"shift_([hw])_(\w+)", name):
            draws, image = self.inputs.get(f"rand01_{found[2]}"), self._image(found[2])
            axis = 0 if found[1] == "h" else 1
            return None if draws is None or image is None else shift_of(draws[axis], image.shape[2 + axis])
        recipes = {
            "cutout": AugmentRecipe(cutout=self.cutout),
            "color_only": AugmentRecipe(translation=False),
            "translation_only": AugmentRecipe(color=False),
        }
        if name not in (*self.alone, *recipes) and not re.fullmatch(r"all\d*", name):
            return None
        draws = self.inputs.get("rand01_all" if name.endswith("_only") else f"rand01_{name}")
        image = self._image(name)
        return None if draws is None or image is None else augment(image, draws.T, recipes.get(name, AugmentRecipe()))

    def _image(self, name: str) -> Tensor | None:
        found = re.fullmatch(r"all(\d+)", name)
        return self.inputs.get(f"image{found[1]}" if found else "image")


class DinoDisc(Runner):
    """`rae_dinodisc`: backbone taps, logits while training and after, power iteration vectors."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        config = case.config
        config.only("norm_type", "bn")
        config.only("using_spec_norm", True)
        config.only("in_chans", 3)
        config.only("norm_eps", 1e-6)
        config.note("official_S_16")
        depth, size, patch = config.need("depth"), config.get("backbone_image", 224), config.need("patch_size")
        keys = [key for key in config.need("key_depths") if key < depth]
        features = DinoFeatures(
            config.need("embed_dim"),
            depth,
            config.need("num_heads"),
            patch,
            [key + 1 for key in keys],
            case.shape("input/image")[-1],
            input_size=size,
            mlp_ratio=config.get("mlp_ratio", 4.0),
        )
        config.agree("tokens", (size // patch) ** 2)
        config.agree("heads", features.taps)
        load_dino_state(features, case.part("weight_dino"), case.name)
        recipe = CriticRecipe(features=DinoFeaturesRecipe(type="dino", path=case.name), kernel=config.get("ks", 9))
        self.critic = Critic(features, recipe)
        self.names = official_names(features.taps)
        layout = ReleasedLayout("the heads of this critic", entries_of(self.critic, self.names))
        layout.check(case.part("weight")).refuse()
        self.critic.load_state_dict(layout.read(case.part("weight")), strict=False)  # the features have theirs
        self.modules = [self.critic]

    def taps(self) -> list[Tensor]:
        """What each head sees [B, N, C]."""
        count = self.critic.features.taps
        if ("tap", 0) not in self._memo:
            for number, tap in enumerate(self.critic.features(self.inputs["image"])):
                self._memo["tap", number] = tap
        return [self._memo["tap", number] for number in range(count)]

    def trained(self) -> Tensor:
        """Logits of the one forward pass in training mode, after which the vectors are what the fixture has."""

        def run() -> Tensor:
            self.critic.train()
            logits = self.critic.logits(self.taps())
            self.critic.eval()
            return logits

        return self.once("trained", run)

    def output(self, name: str) -> Tensor | None:
        if found := re.fullmatch(r"tap_(\d+)_(mean_std|first4tokens)", name):
            if int(found[1]) >= self.critic.features.taps:
                return None
            tap = self.taps()[int(found[1])]
            if found[2] == "mean_std":
                return torch.stack([tap.mean(), tap.std(unbiased=False)])
            return tap.transpose(1, 2)[..., :4]
        if name == "logits_train":
            return self.trained()
        self.trained()
        if name.startswith("after_train_forward/"):
            key = self.names.get(name.removeprefix("after_train_forward/"))
            return None if key is None else self.critic.state_dict()[key].clone()
        if name in ("logits_eval", "logits_eval_per_head"):
            logits = self.once("evaluated", lambda: self.critic.logits(self.taps()))
            return logits if name == "logits_eval" else logits.unflatten(1, (self.critic.features.taps, -1))
        return None
