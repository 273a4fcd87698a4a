"""What stands around the TPU kernel: shapes, shares of a mesh, gradients, what is kept, messages.

The kernel itself needs jax and is checked by `tools/check_attention.py`; here formulas of our own stand in its place.
"""

import math
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from raexla.nn.attention import AttentionKernel, sdpa
from raexla.nn.stack import BlockStack
from raexla.recipe import UserError
from raexla.runtime import EagerRecipe, MeshRecipe, XlaRecipe, open_runtime
from raexla.runtime.splash import kernel_flops, tile_side

HEADS, SHARED, TOKENS, CHANNELS = 4, 2, 128, 8
WIDTH = HEADS * CHANNELS


class Layer(nn.Module):
    """Attention whose key heads are shared, and one linear."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, (HEADS + 2 * SHARED) * CHANNELS)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.kernel = AttentionKernel(causal=causal)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, CHANNELS)).transpose(1, 2)
        q, k, v = heads.split([HEADS, SHARED, SHARED], dim=1)
        return x + self.proj(self.kernel(q.float(), k, v).transpose(1, 2).flatten(2))


def stack(causal: bool, depth: int) -> BlockStack:
    made = BlockStack(Layer(causal) for _ in range(depth))
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return made


def by_hand(name: str, causal: bool, parts: list[Tensor]) -> list[Tensor]:
    """What `raexla.runtime.splash` promises, with the scores in memory."""
    q, k, v = parts[:3]
    group = q.shape[1] // k.shape[1]
    keys, values = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ keys.mT).float()
    if causal:
        place = torch.arange(q.shape[2], device=q.device)
        scores = torch.where(place[:, None] >= place[None], scores, torch.full_like(scores, -1e30))
    if name == "forward":
        normaliser = scores.exp().sum(-1).log()
        return [(scores - normaliser[..., None]).exp().to(v.dtype) @ values, normaliser]
    made, normaliser, gradient = parts[3:]
    weights = (scores - normaliser[..., None]).exp().to(v.dtype)
    inner = (made.float() * gradient.float()).sum(-1, keepdim=True)
    to_scores = (weights * ((gradient @ values.mT) - inner)).to(v.dtype)
    shared = [(to_scores.mT @ q), weights.mT @ gradient]
    return [to_scores @ keys, *(t.unflatten(1, (-1, group)).sum(2) for t in shared)]


def differentiate(runtime: Any, causal: bool, depth: int = 1) -> list[Tensor]:
    """What a stack gives, and its gradients."""
    network = stack(causal, depth)
    runtime.place(network)
    x = torch.randn(4, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    placed = runtime.put({"x": x.numpy()})["x"][0].detach().requires_grad_()
    with runtime.autocast():
        made = network(placed)
    return [made, *torch.autograd.grad((made.float() ** 2).mean(), [placed, *network.parameters()])]


def on_devices() -> dict[str, Any]:
    """Every way to run the stack on a 2 x 2 mesh, in one process."""
    from raexla.runtime import attention

    class ByHand(attention.SplashAttention):
        runs: list[str]

        def compute(self, name: Any, causal: bool, parts: list[Tensor]) -> list[Tensor]:
            self.runs.append(f"{name} {list(parts[0].shape[:2])}")
            return by_hand(name, causal, parts)

    found: dict[str, Any] = {}
    mesh = MeshRecipe(data=1, fsdp=2, tensor=2)
    for name, causal, settings in (
        ("plain", False, {}),
        ("scanned", True, {"scan": True, "remat": "blocks"}),
        ("kept", True, {"scan": True, "remat": "selective"}),
        ("bfloat16", True, {"dtype": "bfloat16"}),
    ):
        runtime: Any = open_runtime(XlaRecipe(platform="cpu", devices=4, **settings), mesh)
        # PyTorch/XLA's own compiler can't partition these formulas by hand within a loop; libtpu's can
        sizes = dict.fromkeys(runtime.mesh, 1) if "scan" in settings else runtime.mesh
        runtime.attention = ByHand(runtime._mesh, sizes, required=True)
        runtime.attention.runs = []
        made = differentiate(runtime, causal, depth=2 if "scan" in settings else 1)
        found[name] = [runtime.to_host(t.detach().float()).tolist() for t in made]
        found[f"{name} runs"] = runtime.attention.runs
    kernel = ByHand(runtime._mesh, runtime.mesh)
    shapes = {
        "length": [(4, 4, 100, 8), (4, 2, 100, 8)],
        "lookup": [(4, 4, 128, 8), (4, 2, 256, 8)],
        "rows": [(3, 4, 128, 8), (3, 2, 128, 8)],
        "heads": [(4, 4, 128, 8), (4, 1, 128, 8)],
        "wide": [(4, 4, 128, 512), (4, 2, 128, 512)],
    }
    for name, (q, k) in shapes.items():
        found[name] = kernel.problem(torch.empty(q), torch.empty(k), torch.empty(k))
    q = torch.ones(4, 4, 100, 8, requires_grad=True)
    found["left to sdpa"] = torch.equal(kernel.attend(sdpa, q, q, q), sdpa(q, q, q))
    for name, settings in (("refused", {"attention": "flash"}), ("taken", {"attention": "auto"})):
        try:
            runtime = open_runtime(XlaRecipe(platform="cpu", devices=4, **settings), mesh)
            found[name] = str(runtime.attention)
        except UserError as error:
            found[name] = str(error)
    with mock.patch.object(attention, "find_spec", return_value=None):
        found["auto without jax"] = attention.open_attention("auto", True, None, {})
        try:
            attention.open_attention("flash", True, None, {})
        except UserError as error:
            found["flash without jax"] = str(error)
    kernel.required = True
    try:
        kernel.attend(sdpa, q, q, q)
    except UserError as error:
        found["required"] = str(error)
    return found


@pytest.fixture(scope="module")
def found(in_process):
    return in_process(on_devices)


def eager(causal: bool, depth: int = 1) -> list[Tensor]:
    return [t.detach() for t in differentiate(open_runtime(EagerRecipe(device="cpu")), causal, depth)]


def gap(found: list[Any], expected: list[Tensor]) -> float:
    """Largest difference, of each tensor's largest value."""
    return max(float((torch.tensor(a) - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("name", "depth"), [("plain", 1), ("scanned", 2), ("kept", 2)])
def test_values_and_gradients_on_a_mesh_are_those_of_sdpa(name, depth, found):
    assert gap(found[name], eager(name != "plain", depth)) < 1e-5


def test_a_wrong_mask_would_be_seen(found):
    assert gap(found["plain"], eager(True)) > 1e-2


def test_bfloat16_follows(found):
    assert 1e-4 < gap(found["bfloat16"], eager(True)) < 3e-2


def test_each_device_has_its_own_rows_and_heads(found):
    assert found["plain runs"] == ["forward [2, 2]", "backward [2, 2]"]


def test_selective_remat_keeps_what_the_kernel_gave(found):
    def runs(name: str) -> tuple[int, ...]:
        return tuple(sum(run.startswith(way) for run in found[f"{name} runs"]) for way in ("forward", "backward"))

    (kept_forward, kept_backward), (forward, backward) = runs("kept"), runs("scanned")
    assert kept_forward < forward
    assert kept_backward == backward


def test_shapes_that_have_no_kernel_say_why(found):
    assert found["length"] == "attention of 100 tokens has no kernel: both must be the same multiple of 128"
    assert found["lookup"].startswith("attention of 128 tokens that look at 256 has no kernel")
    assert found["rows"] == "3 rows don't divide by data x fsdp = 2"
    assert found["heads"] == "4 query and 1 key heads don't divide by mesh.tensor 2"
    assert found["wide"] == "attention heads 512 wide have no kernel: at most 256"


def test_they_are_left_to_sdpa_unless_the_kernel_is_asked_for(found):
    assert found["left to sdpa"]
    assert found["required"] == (
        "runtime.attention is flash, but attention of 100 tokens has no kernel: both must be the same multiple of 128; "
        "take auto, which leaves such layers to SDPA"
    )


def test_a_machine_without_a_tpu_has_no_kernel(found):
    assert found["taken"] == "None"
    assert found["refused"] == (
        "runtime.attention is flash, whose kernel runs on TPUs only: take auto or sdpa on this machine"
    )


def test_without_jax(found):
    assert found["auto without jax"] is None
    assert found["flash without jax"] == (
        "runtime.attention is flash, which needs jax and jaxlib: pip install 'raexla[tpu]' "
        "('raexla[plan]' on a machine without a TPU), or take auto or sdpa"
    )


def test_tiles():
    assert [tile_side(n) for n in (128, 256, 384, 512, 640, 768, 1024)] == [128, 256, 384, 512, 128, 384, 512]
    with pytest.raises(ValueError, match="261 tokens: no multiple of 128"):
        tile_side(261)


def test_flops_are_those_of_the_tiles_that_are_not_empty():
    square = 2 * 3 * 4 * 1024**2 * 64  # one matrix product over all scores
    assert kernel_flops(3, 4, 1024, 64, causal=False) == (2 * square, 5 * square)
    assert kernel_flops(3, 4, 1024, 64, causal=True) == (2 * square * 3 // 4, 5 * square * 3 // 4)
    assert kernel_flops(3, 4, 512, 64, causal=True) == kernel_flops(3, 4, 512, 64, causal=False)


def test_sdpa_shares_key_heads_and_scales():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, HEADS, 5, CHANNELS, generator=generator)
    k, v = (torch.randn(2, SHARED, 5, CHANNELS, generator=generator) for _ in range(2))
    for causal in (False, True):
        expected = by_hand("forward", causal, [q / math.sqrt(CHANNELS), k, v])[0]
        assert torch.allclose(sdpa(q, k, v, causal), expected, atol=1e-6)
        assert torch.allclose(AttentionKernel(causal=causal)(q, k, v), expected, atol=1e-6)
    assert sdpa(q.double(), k, v).dtype == torch.float32
