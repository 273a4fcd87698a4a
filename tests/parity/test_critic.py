"""The critic and its augmentation against RAE's DinoDisc and DiffAug."""

import pytest
import torch

from raexla.models.critic import AugmentRecipe, Critic, CriticRecipe, DinoFeatures, DinoFeaturesRecipe, augment
from raexla.models.critic.features import load_dino_state
from raexla.models.critic.official import official_names


@pytest.fixture(scope="module")
def critic_recipe():
    return CriticRecipe(features=DinoFeaturesRecipe(type="dino", path="x"))


def test_critic(official, critic_recipe):
    case = official("rae_dinodisc")
    config = case.config
    blocks = [depth + 1 for depth in config["key_depths"]]
    features = DinoFeatures(
        config["embed_dim"], config["depth"], config["num_heads"], config["patch_size"], blocks, image_size=64
    )
    load_dino_state(features, case.part("weight_dino"), "fixture")
    critic = Critic(features, critic_recipe)
    names = official_names(config["heads"])
    assert set(names) == set(case.weights)
    missing, unexpected = critic.load_state_dict({names[k]: v for k, v in case.weights.items()}, strict=False)
    assert unexpected == []
    assert all(name.startswith("features.") for name in missing)
    image = case.inputs["image"]
    for index, tap in enumerate(features(image)):
        case.check(f"tap_{index}_first4tokens", tap.transpose(1, 2)[..., :4])
        case.check(f"tap_{index}_mean_std", torch.stack([tap.mean(), tap.std(unbiased=False)]))
    critic.train()
    case.check("logits_train", critic((image + 1) / 2))
    state = critic.state_dict()
    for key in case.outputs:
        if key.startswith("after_train_forward/"):
            case.check(key, state[names[key.removeprefix("after_train_forward/")]])
    critic.eval()
    logits = critic((image + 1) / 2)
    case.check("logits_eval", logits)
    case.check("logits_eval_per_head", logits.unflatten(1, (config["heads"], -1)))


@pytest.mark.parametrize(
    ("output", "draws", "recipe"),
    [
        ("translation", "translation", AugmentRecipe()),
        ("brightness", "brightness", AugmentRecipe()),
        ("saturation", "saturation", AugmentRecipe()),
        ("contrast", "contrast", AugmentRecipe()),
        ("all", "all", AugmentRecipe()),
        ("all20", "all20", AugmentRecipe()),
        ("cutout", "cutout", AugmentRecipe(cutout=0.2)),
        ("color_only", "all", AugmentRecipe(translation=False)),
        ("translation_only", "all", AugmentRecipe(color=False)),
    ],
)
def test_augmentation(official, output, draws, recipe):
    case = official("rae_diffaug")
    image = case.inputs["image20" if output == "all20" else "image"]
    case.check(output, augment(image, case.inputs[f"rand01_{draws}"].T, recipe), factor=1e-6, floor=1e-7)
