"""Without a mask the language model is causal through its layers' kernels; with one the kernels are left alone."""

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config

from raexla.models.mllm import MLLMRecipe, build_mllm
from raexla.models.mllm.model import causal_inputs
from raexla.nn.attention import AttentionKernel, sdpa


@pytest.fixture
def mllm():
    config = Qwen2Config(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return build_mllm(MLLMRecipe(path="unread", queries=4), 16, 8, 8, config)


@pytest.fixture
def calls(mllm):
    """What the kernels are asked for: (shape of queries, shape of keys, causal)."""
    seen: list[tuple[tuple[int, ...], tuple[int, ...], bool]] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        seen.append((tuple(q.shape), tuple(k.shape), causal))
        return sdpa(q, k, v, causal)

    for module in mllm.modules():
        if isinstance(module, AttentionKernel):
            module.attend = attend
    return seen


def test_no_mask_is_the_causal_mask(mllm, calls):
    embedded = torch.randn(2, 7, 32)
    mask, positions = causal_inputs(embedded)
    masked = mllm.hidden(embedded, mask, positions)
    assert not calls
    unmasked = mllm.hidden(embedded, None, positions)
    assert calls == [((2, 4, 7, 8), (2, 2, 7, 8), True)] * 2
    assert torch.allclose(unmasked, masked, atol=1e-6)
    changed = mllm.hidden(torch.cat([embedded[:, :-1], embedded[:, -1:] + 1], 1), None, positions)
    assert torch.allclose(changed[:, :-1], unmasked[:, :-1], atol=1e-6)


def test_padding_on_the_left_keeps_its_mask(mllm, calls):
    tokens = torch.randint(16, (2, 7))
    valid = torch.ones(2, 7, dtype=torch.bool)
    mllm(tokens)
    assert len(calls) == 2
    mllm(tokens, valid=valid)
    assert len(calls) == 2
