"""Losses against formulas written out by hand, and LPIPS against the lpips package itself."""

from pathlib import Path

import huggingface_hub
import lpips
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from raexla.losses import (
    critic_loss,
    cross_entropy_sum,
    feature_distance,
    feature_distances,
    generator_loss,
    gram_loss,
    gram_losses,
    gram_matrix,
    l1,
    l1_distances,
    load_lpips,
)
from raexla.recipe import UserError
from tests.vgg import save_vgg16


def test_l1_is_the_mean_absolute_error():
    assert l1(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.0])).item() == 0.75


def test_adversarial_pairs():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert critic_loss(real, fake, "hinge").item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert generator_loss(fake, "hinge").item() == 1.0
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    entropy = -0.5 * (d_real.log().mean() + (1 - d_fake).log().mean())
    for kind in ("vanilla", "non_saturating"):
        torch.testing.assert_close(critic_loss(real, fake, kind), entropy)
    torch.testing.assert_close(generator_loss(fake, "vanilla"), (1 - d_fake).log().mean())
    torch.testing.assert_close(generator_loss(fake, "non_saturating"), -d_fake.log().mean())


def test_cross_entropy_shifts_by_one_and_counts():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[3, -100, 2, 6, -100], [-100, -100, -100, -100, 1]], dtype=torch.int32)
    total, count = cross_entropy_sum(logits, labels)
    expected = -(
        logits[0, 1].log_softmax(0)[2] + logits[0, 2].log_softmax(0)[6] + logits[1, 3].log_softmax(0)[1]
    )  # labels[:, 0] is nobody's target
    assert count.item() == 3
    torch.testing.assert_close(total, expected)


def test_nothing_to_learn_gives_zero_and_no_nan():
    logits = torch.randn(1, 4, 7, requires_grad=True)
    total, count = cross_entropy_sum(logits, torch.full((1, 4), -100))
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0.0)
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_gram_matrix_of_maps_equals_that_of_tokens():
    maps = torch.randn(2, 3, 4, 5)
    tokens = maps.flatten(2).transpose(1, 2)
    by_hand = torch.einsum("bchw,bdhw->bcd", maps, maps) / (3 * 4 * 5)
    torch.testing.assert_close(gram_matrix(maps), by_hand)
    torch.testing.assert_close(gram_matrix(tokens), by_hand)
    other = torch.randn(2, 3, 4, 5)
    expected = F.mse_loss(gram_matrix(maps), gram_matrix(other))
    torch.testing.assert_close(gram_loss([maps, maps], [other, maps]), expected)
    shuffled = tokens[:, torch.randperm(20)]  # style, not layout
    assert gram_loss([shuffled], [tokens]).item() == pytest.approx(0.0, abs=1e-10)


def test_gatys_normalisation_is_equation_4_and_5():
    """E_l = sum_ij (G_ij - A_ij)^2 / (4 N^2 M^2) with G = F F^T, N channels and M positions; weights 1 / layers."""
    generator = torch.Generator().manual_seed(3)
    pairs = [torch.randn(2, 2, channels, 3, 4, generator=generator, dtype=torch.float64) for channels in (5, 7)]
    expected = torch.zeros(2)
    for row in range(2):
        for fake, real in pairs:
            f, a = fake[row].flatten(1), real[row].flatten(1)
            expected[row] += ((f @ f.T - a @ a.T) ** 2).sum() / (4 * f.shape[0] ** 2 * f.shape[1] ** 2) / len(pairs)
    found = gram_losses([fake for fake, _ in pairs], [real for _, real in pairs], "gatys")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(gram_losses([pairs[0][0]], [pairs[0][1]]), expected)


def test_the_mean_over_rows_is_the_loss():
    a, b = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    tokens, others = a.flatten(2), b.flatten(2)
    for rows, whole in (
        (l1_distances(a, b), l1(a, b)),
        (feature_distances([tokens], [others]), feature_distance([tokens], [others])),
        (gram_losses([a, b], [b, b]), gram_loss([a, b], [b, b])),
    ):
        assert rows.shape == (3,)
        torch.testing.assert_close(rows.mean(), whole)
    torch.testing.assert_close(l1_distances(a, b)[1], l1(a[1:2], b[1:2]))
    torch.testing.assert_close(gram_losses([a], [b])[2], gram_loss([a[2:]], [b[2:]]))


def test_feature_distance_is_scale_free():
    a, b = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    assert feature_distance([a * 3.0], [a]).item() == pytest.approx(0.0, abs=1e-9)
    expected = (2 - 2 * F.cosine_similarity(a, b, dim=-1)).mean()
    torch.testing.assert_close(feature_distance([a, b], [b, b]), expected / 2, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    return save_vgg16(tmp_path_factory.mktemp("vgg") / "vgg16.safetensors")


def test_lpips_equals_the_package(vgg_file):
    ours = load_lpips(vgg_file)
    with torch.device("meta"):  # VGG16's classifier, which LPIPS drops, takes seconds to fill
        theirs = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    theirs.scaling_layer = lpips.ScalingLayer()
    theirs.net.load_state_dict(ours.features.vgg.state_dict(), assign=True)
    heads = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    theirs.load_state_dict(torch.load(heads, "cpu", weights_only=True), strict=False, assign=True)
    a, b = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    expected = theirs(a, b, normalize=True)
    torch.testing.assert_close(ours(a, b), expected.mean(), rtol=1e-5, atol=1e-7)
    assert ours(a, a).item() == 0.0
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    ours(image, a[:1]).backward()
    assert torch.isfinite(image.grad).all()


def test_any_activation_of_vgg16_can_be_had_by_name(vgg_file):
    """Against a plain walk through the published layout: 2, 2, 3, 3, 3 convolutions, each followed by a ReLU."""
    features = load_lpips(vgg_file).features
    state, image = load_file(vgg_file), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    hidden, index, expected = (image * 2 - 1 - features.shift) / features.scale, 0, {}
    for block, depth in enumerate((2, 2, 3, 3, 3), start=1):
        for number in range(1, depth + 1):
            hidden = F.conv2d(hidden, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1)
            hidden = expected[f"relu{block}_{number}"] = F.relu(hidden)
            index += 2
        hidden, index = F.max_pool2d(hidden, 2), index + 1
    found = features.maps(image, tuple(expected))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    features.check(("relu1_1", "relu5_3"))
    with pytest.raises(
        UserError, match=r"losses.gram.layers: VGG16 has no 'relu2_3'; it has relu1_1, relu1_2, relu2_1"
    ):
        features.check(("relu1_1", "relu2_3"))


def test_the_backbone_may_be_a_folder_or_on_the_hub(vgg_file, tmp_path, monkeypatch):
    """timm's `vgg16.tv_in1k` has torchvision's keys, and the classifier's under other names."""
    state = load_file(vgg_file) | {"head.fc.weight": torch.zeros(2, 2), "pre_logits.fc1.bias": torch.zeros(2)}
    save_file(state, tmp_path / "model.safetensors")
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    expected = load_lpips(vgg_file)(image[:1], image[1:])
    assert load_lpips(str(tmp_path))(image[:1], image[1:]) == expected
    assert load_lpips("timm/vgg16.tv_in1k")(image[:1], image[1:]) == expected
    assert asked == [("timm/vgg16.tv_in1k", "model.safetensors")]


def test_lpips_is_never_random(vgg_file, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file; it should hold VGG16's"):
        load_lpips(str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match=r"^not a name: neither a file, a folder nor a readable hub name"):
        load_lpips("not a name")
    (tmp_path / "junk.pth").write_bytes(b"no weights here")
    with pytest.raises(UserError, match=r"junk\.pth: can't be read as VGG16's"):
        load_lpips(str(tmp_path / "junk.pth"))
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match=r"not the weights of a VGG16: features\.0\.bias is missing"):
        load_lpips(str(tmp_path / "half.safetensors"))
