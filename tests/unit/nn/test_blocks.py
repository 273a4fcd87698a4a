"""Norm, attention, gated MLP, modulation, time features, derived tables."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.nn.attention import Attention
from raexla.nn.modulate import AdaLN, modulate
from raexla.nn.norms import RMSNorm
from raexla.nn.rope import Rope2d
from raexla.nn.swiglu import SwiGLU, swiglu_width
from raexla.nn.tables import reset_tables
from raexla.nn.timestep import TimestepEmbedder, fourier_features, fourier_frequencies


def test_rms_norm_is_pytorchs_and_stays_exact_in_bfloat16() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(32)
    nn.init.normal_(norm.weight)
    x = torch.randn(4, 32) * 1e-3  # small enough for eps to matter
    torch.testing.assert_close(norm(x), F.rms_norm(x, (32,), norm.weight, 1e-6))
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, norm(x.bfloat16().float()).bfloat16())


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_is_softmax_attention(qk_norm: bool) -> None:
    torch.manual_seed(0)
    attention, rope = Attention(24, 2, qk_norm=qk_norm), Rope2d((2, 3), 12)
    x = torch.randn(2, 6, 24)
    q, k, v = attention.qkv(x).reshape(2, 6, 3, 2, 12).permute(2, 0, 3, 1, 4)
    if qk_norm:
        q, k = attention.q_norm(q), attention.k_norm(k)
    weights = (rope(q) @ rope(k).transpose(-1, -2) / math.sqrt(12)).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 6, 24))
    torch.testing.assert_close(attention(x, rope), expected)
    assert ("q_norm.weight" in attention.state_dict()) == qk_norm


def test_attention_kernel_can_be_swapped() -> None:
    class TakeValues(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return v

    attention = Attention(8, 2)
    names = set(attention.state_dict())
    attention.kernel = TakeValues()
    x = torch.randn(1, 3, 8)
    torch.testing.assert_close(attention(x), attention.proj(attention.qkv(x)[..., 16:]))
    assert set(attention.state_dict()) == names


def test_attention_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="10 channels do not divide into 4 heads"):
        Attention(10, 4)


def test_swiglu() -> None:
    mlp = SwiGLU(8, 5)
    x = torch.randn(3, 8)
    gate, value = mlp.w12(x)[:, :5], mlp.w12(x)[:, 5:]
    torch.testing.assert_close(mlp(x), mlp.w3(gate * gate.sigmoid() * value))
    assert [swiglu_width(c) for c in (2048, 64, 32, 40)] == [5461, 170, 85, 106]  # the released models' widths


def test_modulation() -> None:
    x, condition = torch.randn(2, 5, 4), torch.randn(2, 1, 3)
    adaln = AdaLN(3, 4, parts=2)
    shift, scale = adaln(condition)
    assert shift.shape == scale.shape == (2, 1, 4)
    torch.testing.assert_close(torch.cat([shift, scale], -1), adaln.linear(condition * condition.sigmoid()))
    torch.testing.assert_close(modulate(x, shift, scale), x + x * scale + shift)


def test_time_features() -> None:
    frequencies = fourier_frequencies()
    torch.testing.assert_close(
        frequencies[:4], torch.tensor([0.164998, -0.428739, -0.024267, 0.149424]), rtol=0, atol=1e-6
    )
    assert frequencies.sum().item() == pytest.approx(-12.888590, abs=1e-5)
    features = fourier_features(torch.tensor([0.0, 0.3]), frequencies)
    assert torch.equal(features[0], torch.cat([torch.zeros(256), torch.ones(256)]))  # sines first
    assert features[1, 0].item() == pytest.approx(math.sin(2 * math.pi * 0.3 * 0.164998), abs=1e-5)


def test_frequencies_do_not_touch_the_global_generator_and_travel_with_the_weights() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fourier_frequencies()
    assert torch.equal(before, torch.get_rng_state())
    embedder = TimestepEmbedder(4)
    assert torch.equal(embedder.state_dict()["W"], fourier_frequencies())
    assert "W" not in dict(embedder.named_parameters())


def test_tables_are_refilled_after_meta() -> None:
    with torch.device("meta"):
        rope = nn.ModuleList([Rope2d((4, 4), 8)])
    rope.to_empty(device="cpu")
    reset_tables(rope)
    expected = Rope2d((4, 4), 8)
    assert torch.equal(rope[0].cos, expected.cos)
    assert torch.equal(rope[0].sin, expected.sin)
