"""A plan for a CPU mesh is run, and the memory that was planned is compared with the memory that was taken.

The step is traced as `raexla plan` traces it, on placeholders, and compiled for two virtual devices; XLA says what one
device needs. Then `train`'s own step runs on two virtual devices of another process, and Linux says what it took. The
model is tiny and its batch is not: scores of attention and optimiser states are most of it. Both are compiled
in the same way, so that what the compiler says of memory shared by arguments and results holds for both.
"""

import ctypes
import gc
import os
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import stages
from tests.unit.plan import steps

DEVICES = 2
MIB = 2**20
#: Between what was planned and what was taken.
FACTOR = 1.1


def recipe(made: dict[str, str], folder: str) -> dict[str, Any]:
    """About 100 MiB of state and some hundred MiB of activations."""
    values = stages.pretrain(made, folder, chat={"length": 256, "system": "", "answer_prefix": ""})
    values["model"]["dit"] = {"width": 384, "depth": 2, "heads": 6, "condition_channels": 384}
    values["train"] = {"steps": 4, "global_batch_images": 48}
    values["runtime"] = {"type": "xla", "platform": "cpu", "devices": DEVICES, "attention": "sdpa", "remat": "blocks"}
    return {**values, "mesh": {"data": 1, "fsdp": DEVICES}}


def planned(values: dict[str, Any]) -> dict[str, float]:
    """Bytes of one device, by the compiler: arguments, results, those that share memory, and temporaries."""
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="0", TF_CPP_VMODULE="pjrt_computation_client=3")  # torch_xla logs them
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        import torch_xla
        import torch_xla.core.xla_model as xm

        found: list[Any] = []
        exported = xm.get_stablehlo

        def look(roots: Any) -> str:
            found.append(roots)
            text: str = exported(roots)
            return text

        xm.get_stablehlo = look
        program = steps.planned(stages.resolve(values), "train")
        torch_xla._XLAC._xla_warm_up_cache(found[0], [])  # compiles; there is nothing to run it on
        log.seek(0)
        said = re.findall(r"CompiledMemoryStats\((.*?)\)", log.read().decode(errors="replace"))
    sizes = [dict(re.findall(r"(?<!host_)\b(argument|output|alias|temp)_size_in_bytes=(\d+)", line)) for line in said]
    largest = max(sizes, key=lambda each: int(each["temp"]))
    return {**{name: int(value) for name, value in largest.items()}, "arguments": len(program.arguments)}


def _status(key: str) -> int:
    """Bytes from /proc/self/status."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def taken(values: dict[str, Any]) -> dict[str, float]:
    """Bytes of all devices: what a step adds while it runs, and what goes when the Task goes."""
    mmap_threshold, bytes_ = -3, 2**16
    ctypes.CDLL(None).mallopt(mmap_threshold, bytes_)  # arrays go back to the system as soon as they are freed
    task: Any
    runtime: Any
    step: Any
    batch: Any
    task, runtime = stages.open_stage(values)
    step = runtime.compile_step(partial(task.train_step, "train"), lambda: list(task.state().values()))
    batch = runtime.put(steps.batch(task), task.accumulate)
    for number in range(2):
        step(batch, task.controls(number)).read()
    runtime.finish()
    gc.collect()
    standing = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
    step(batch, task.controls(2)).read()
    runtime.finish()
    peak = _status("VmHWM")
    state = sum(t.numel() * t.element_size() for t in task.state().values())
    task = step = batch = None
    gc.collect()
    runtime.finish()
    return {"step": peak - standing, "standing": standing - _status("VmRSS"), "state": state}


@pytest.mark.slow
def test_what_is_planned_is_what_is_taken(in_process: Callable[..., Any], tmp_path: Path) -> None:
    values = recipe(stages.world(tmp_path / "world"), str(tmp_path / "run"))
    plan, found = in_process(planned, values), in_process(taken, values)
    while_running = DEVICES * (plan["temp"] + plan["output"] - plan["alias"])
    assert while_running > 100 * MIB
    assert found["step"] == pytest.approx(while_running, rel=FACTOR - 1)
    assert plan["argument"] * DEVICES > 60 * MIB
    assert found["standing"] == pytest.approx(DEVICES * plan["argument"], rel=FACTOR - 1)
