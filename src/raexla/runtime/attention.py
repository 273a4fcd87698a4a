"""Attention through jax's splash kernel on a TPU, in place of PyTorch's (`raexla.nn.attention`).

A module that computes attention has an attribute `attend`, (q, k, v, causal) -> what its heads read, and `place` puts
the kernel there. The kernel is traced and lowered for the TPU whatever this machine is, and goes into torch_xla's
program as a computation: so it compiles ahead of time, inside a scanned block, and split over a mesh, where each device
runs it on its own samples and heads.
"""

import json
import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch_xla
import torch_xla.core.xla_builder as xb
import torch_xla.distributed.spmd as xs
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from raexla.recipe import UserError
from raexla.runtime import splash
from raexla.runtime.base import Attention
from raexla.runtime.mesh import BATCH_AXES
from raexla.runtime.sharding import Axes

Attend = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
MAX_CHANNELS = 256
"""Channels of a head above which the kernel's tiles leave the chip's fast memory."""
Pass = Literal["forward", "backward"]
_JAX_TYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}
_BYTES = {"bf16": 2, "f32": 4, "i8": 1, "i16": 2, "i32": 4}
_ROWS: Axes = (BATCH_AXES, "tensor", None)


def open_attention(choice: Attention, tpu: bool, mesh: Any, sizes: Mapping[str, int]) -> "SplashAttention | None":
    """What `runtime.attention` asks for; None for PyTorch's.

    Args:
        tpu: the program is for a TPU, here or ahead of time.
        mesh: torch_xla's. sizes: devices along each axis.

    Raises:
        UserError: `flash`, but the program is not for a TPU, or jax is missing.
    """
    if choice == "sdpa":
        return None
    missing = [name for name in ("jax", "jaxlib") if find_spec(name) is None]
    if choice == "auto":
        return SplashAttention(mesh, sizes) if tpu and not missing else None
    if not tpu:
        raise UserError("runtime.attention is flash, whose kernel runs on TPUs only: take auto or sdpa on this machine")
    if missing:
        raise UserError(
            f"runtime.attention is flash, which needs {' and '.join(missing)}: pip install 'raexla[tpu]' "
            "('raexla[plan]' on a machine without a TPU), or take auto or sdpa"
        )
    return SplashAttention(mesh, sizes, required=True)


class SplashAttention:
    """Attention by the kernel where its shapes allow, else by what a module had before.

    Args:
        mesh: torch_xla's, with the axes of `raexla.runtime.mesh`. sizes: devices along each axis.
        required: in training a shape that the kernel can't take is an error.
        interpret: run the kernel's own steps by ordinary operations, on any device (tests).
    """

    def __init__(self, mesh: Any, sizes: Mapping[str, int], required: bool = False, interpret: bool = False) -> None:
        self.mesh, self.sizes, self.required, self.interpret = mesh, dict(sizes), required, interpret
        self.flops = 0
        """Of the calls so far, backward calls included, on all devices; a loop's body counts once."""

    def take_over(self, module: nn.Module) -> None:
        """Let every submodule that has `attend` use the kernel; what it had stays behind it as the alternative."""
        for owner in module.modules():
            before = vars(owner).get("attend")
            if before is not None and not (isinstance(before, partial) and before.func == self.attend):
                owner.attend = partial(self.attend, before)  # type: ignore[assignment]

    def attend(self, otherwise: Attend, q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        """softmax(q k^T / sqrt(D)) v. q: [B, H, L, D]; k, v: [B, G, L, D], G dividing H -> [B, H, L, D], in v's type.

        Raises:
            UserError: the kernel is required, this is training, and the shapes don't suit it.
        """
        problem = self.problem(q, k, v)
        if problem is None:
            scaled = (q.float() / math.sqrt(q.shape[-1])).to(v.dtype)
            return splash_attention(scaled, k.to(v.dtype), v, causal, self)[0]
        if self.required and torch.is_grad_enabled() and q.requires_grad:
            raise UserError(f"runtime.attention is flash, but {problem}; take auto, which leaves such layers to SDPA")
        return otherwise(q, k, v, causal)

    def problem(self, q: Tensor, k: Tensor, v: Tensor) -> str | None:
        """Why the kernel can't compute this; None if it can."""
        batch, heads, tokens, channels = q.shape
        samples, tensor = self.sizes["data"] * self.sizes["fsdp"], self.sizes["tensor"]
        if tokens % splash.LANES or k.shape[2] != tokens:
            lengths = f"{tokens} tokens" if k.shape[2] == tokens else f"{tokens} tokens that look at {k.shape[2]}"
            return f"attention of {lengths} has no kernel: both must be the same multiple of {splash.LANES}"
        if channels > MAX_CHANNELS:
            return f"attention heads {channels} wide have no kernel: at most {MAX_CHANNELS}"
        if batch % samples:
            return f"{batch} rows don't divide by data x fsdp = {samples}"
        if heads % tensor or k.shape[1] % tensor:
            return f"{heads} query and {k.shape[1]} key heads don't divide by mesh.tensor {tensor}"
        if v.dtype not in _JAX_TYPES:
            return f"the kernel takes float32 and bfloat16, not {str(v.dtype).removeprefix('torch.')}"
        return None

    def run(self, name: Pass, causal: bool, *arguments: Tensor) -> list[Tensor]:
        """The kernel's `name` (see `raexla.runtime.splash`) on whole tensors, each device on its own rows and heads."""
        batch, heads, tokens, channels = arguments[0].shape
        self.flops += splash.kernel_flops(batch, heads, tokens, channels, causal)[name == "backward"]
        if math.prod(self.sizes.values()) == 1:
            return self.compute(name, causal, [tensor.contiguous() for tensor in arguments])
        return [self._whole(part) for part in self.compute(name, causal, [self._local(t) for t in arguments])]

    def compute(self, name: Pass, causal: bool, parts: list[Tensor]) -> list[Tensor]:
        """The same on one device's parts."""
        shapes = tuple((tuple(part.shape), _JAX_TYPES[part.dtype]) for part in parts)
        computation = lowered(name, causal, self.interpret, shapes)
        made: list[Tensor] = torch_xla._XLAC._xla_user_computation(f"xla::attention_{name}", parts, computation)
        return made

    def _local(self, tensor: Tensor) -> Tensor:
        """Each device's part of [B, H, L, ...], on which the partitioner keeps its hands off."""
        kept = tensor.clone()  # marking happens in place
        part: Tensor = xs.enable_manual_sharding(kept, self._axes(tensor), mesh=self.mesh).global_tensor
        return part

    def _whole(self, part: Tensor) -> Tensor:
        axes = self._axes(part)
        samples, tensor = self.sizes["data"] * self.sizes["fsdp"], self.sizes["tensor"]
        shape = torch.Size((part.shape[0] * samples, part.shape[1] * tensor, *part.shape[2:]))
        whole: Tensor = xs.disable_manual_sharding(part, axes, shape, mesh=self.mesh).global_tensor
        return whole

    def _axes(self, tensor: Tensor) -> Axes:
        return (*_ROWS, *(None,) * (tensor.ndim - len(_ROWS)))


def splash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    kernel: SplashAttention,
    known: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """What heads read [B, H, L, D], and the logarithms of the rows' normalisers [B, H, L], which have no gradient.

    A torch function mode sees the call, as it does PyTorch's own: one that keeps results to save a second run of a
    block hands them back as `known`, and the kernel's forward pass is not run again.

    Args:
        q: [B, H, L, D], scaled. k, v: [B, G, L, D].
    """
    if has_torch_function((q, k, v)):
        found: tuple[Tensor, Tensor] = handle_torch_function(
            splash_attention, (q, k, v), q, k, v, causal, kernel, known=known
        )
        return found
    made, normaliser = _Splash.apply(q, k, v, causal, kernel, *(known or (None, None)))
    return made, normaliser


class _Splash(torch.autograd.Function):
    """The kernel forward and backward."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        kernel: SplashAttention,
        made: Tensor | None,
        normaliser: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if made is None or normaliser is None:
            made, normaliser = kernel.run("forward", causal, q, k, v)
        else:
            made, normaliser = made * 1, normaliser * 1  # a function's outputs are no inputs of it
        ctx.save_for_backward(q, k, v, made, normaliser)
        ctx.mark_non_differentiable(normaliser)
        ctx.causal, ctx.kernel = causal, kernel
        return made, normaliser

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, made, normaliser = ctx.saved_tensors
        found = ctx.kernel.run("backward", ctx.causal, q, k, v, made, normaliser, gradients[0].to(made.dtype))
        return (*found, None, None, None, None)


@cache
def lowered(name: Pass, causal: bool, interpret: bool, shapes: tuple[tuple[tuple[int, ...], str], ...]) -> Any:
    """XLA's computation of the kernel for arguments of these shapes and types."""
    import jax
    from jax._src.interpreters.mlir import LoweringParameters

    jax.config.update("jax_platforms", "cpu")  # it traces only: a TPU, if there is one, is torch_xla's
    function = partial(getattr(splash, name), causal=causal, interpret=interpret)
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    found = (
        jax.jit(function, keep_unused=True)
        .trace(*structs)
        .lower(
            lowering_platforms=("cpu" if interpret else "tpu",),
            _private_parameters=LoweringParameters(for_export=True),
        )
    )
    (batch, heads, tokens, channels), _ = shapes[0]
    flops = splash.kernel_flops(batch, heads, tokens, channels, causal)[name == "backward"]
    _tell_cost(found.compiler_ir("stablehlo"), flops)
    proto = found.compiler_ir("hlo").as_serialized_hlo_module_proto()
    return xb.computation_from_module_proto(f"attention_{name}", proto)


def _tell_cost(module: Any, flops: int) -> None:
    """Write a cost estimate on the kernel's call, into which XLA can't look."""
    from jaxlib.mlir import ir

    def size(value: Any) -> int:
        kind = ir.RankedTensorType(value.type)
        return int(math.prod(kind.shape) * _BYTES[str(kind.element_type)])

    def visit(op: Any) -> Any:
        if op.name == "stablehlo.custom_call" and "tpu_custom_call" in str(op.attributes["call_target_name"]):
            config = json.loads(ir.StringAttr(op.attributes["backend_config"]).value)
            moved = sum(size(value) for value in (*op.operands, *op.results))
            cost = {"flops": flops, "transcendentals": 0, "bytes_accessed": moved}
            config["custom_call_config"]["cost_estimate"] = cost
            with op.context:
                op.attributes["backend_config"] = ir.StringAttr.get(json.dumps(config))
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
