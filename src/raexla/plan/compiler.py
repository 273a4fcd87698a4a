"""The TPU compiler of libtpu, ahead of time and without a TPU: a traced step in, memory, FLOPs and the program out."""

import re
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raexla.plan.slices import GIB, Slice
from raexla.plan.trace import Program
from raexla.recipe import UserError
from raexla.runtime import prepare_compiler


class CompilerMissing(UserError):
    """The `plan` extra is not installed."""


class DoesNotFit(Exception):
    """The compiler found no way to lay the program out in the chip's memory."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        used = re.search(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm", said)
        scale = {"G": 1.0, "M": 1 / 1024}
        self.used_gib = float(used[1]) * scale[used[2]] if used else None
        self.limit_gib = float(used[3]) * scale[used[4]] if used else None


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one chip's program."""

    seconds: float
    """Compile time on this host."""
    flops: float
    """Matrix products and everything else, loops unrolled by their trip counts."""
    bytes_accessed: float
    peak_gib: float
    arguments_gib: float
    results_gib: float
    donated_gib: float
    temporaries_gib: float
    hlo: str = field(repr=False)
    """The optimised program."""


def devices_of(where: Slice) -> list[Any]:
    """The slice's devices as the compiler knows them; one a chip.

    Raises:
        CompilerMissing: no jax or no libtpu.
        UserError: the compiler doesn't know this slice.
    """
    prepare_compiler()
    try:
        from jax.experimental import topologies
    except ImportError as missing:
        raise CompilerMissing(
            "the TPU compiler is not installed: pip install 'raexla[plan]' (Python 3.11-3.12), or add --quick"
        ) from missing
    options: dict[str, Any] = {"num_slices": where.slices} if where.slices > 1 else {}
    if where.chip.name == "v4":
        options["chip_config_name"] = "megacore"
    name = f"{where.chip.name}:{'x'.join(map(str, where.shape))}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UserError(f"--topology {name}: the TPU compiler doesn't know it: {str(error).splitlines()[0]}") from error
    if len(found) != where.chips:
        raise UserError(f"--topology {where.name}: {where.chips} chips, the compiler sees {len(found)} devices")
    return list(found)


def compile_step(program: Program, where: Slice, *, effort: float = 0.0) -> Compiled:
    """Compile a traced step for a slice.

    Args:
        effort: the compiler's `exec_time_optimization_effort`; -1 is 3 to 4 times faster, and its memory is right but
            not its schedule.

    Raises:
        DoesNotFit: the program needs more memory than the chip has.
    """
    devices = devices_of(where)
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jaxlib.mlir import ir

    count = len(devices)
    options = compiler.get_compile_options(
        1, count, device_assignment=np.arange(count).reshape(1, count), use_spmd_partitioning=True
    )
    options.executable_build_options.use_shardy_partitioner = False
    if effort:
        options.executable_build_options.exec_time_optimization_effort = effort
    began = time.monotonic()
    with mlir.make_ir_context():
        module = ir.Module.parse(program.stablehlo)
        _annotate(module, program, ir)
        code = mlir.module_to_bytecode(module)
        try:
            made = devices[0].client.compile(code, xla_client.DeviceList(tuple(devices)), options)
        except RuntimeError as error:  # jaxlib's XlaRuntimeError is one
            if "RESOURCE_EXHAUSTED" in str(error):
                raise DoesNotFit(str(error)) from error
            raise
    return _read(made, time.monotonic() - began)


def _annotate(module: Any, program: Program, ir: Any) -> None:
    """Say how arguments and results are split, and which arguments give their memory to which results."""
    main = next(op for op in module.body.operations if str(op.name).strip('"') == "main")
    text = ir.StringAttr.get
    attributes = []
    for number, held in enumerate(program.arguments):
        entry = {"mhlo.sharding": text(held.sharding)}
        if number in program.donated:
            entry["tf.aliasing_output"] = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), program.donated[number])
        attributes.append(ir.DictAttr.get(entry))
    main.arg_attrs = ir.ArrayAttr.get(attributes)
    results = [ir.DictAttr.get({"mhlo.sharding": text(sharding)}) for sharding in program.results]
    main.attributes["res_attrs"] = ir.ArrayAttr.get(results)


def _read(made: Any, seconds: float) -> Compiled:
    memory = made.get_compiled_memory_stats()
    cost = made.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    hlo = made.hlo_modules()[0].to_string()
    return Compiled(
        seconds=seconds,
        flops=float(cost.get("flops", 0.0)),
        bytes_accessed=float(cost.get("bytes accessed", 0.0)),
        peak_gib=memory.peak_memory_in_bytes / GIB if hasattr(memory, "peak_memory_in_bytes") else 0.0,
        arguments_gib=memory.argument_size_in_bytes / GIB,
        results_gib=memory.output_size_in_bytes / GIB,
        donated_gib=memory.alias_size_in_bytes / GIB,
        temporaries_gib=memory.temp_size_in_bytes / GIB,
        hlo=hlo,
    )
