"""The step that `plan` compiles is the one that `train` runs: both are traced and compared, operation by operation.

`plan` traces nano's step on placeholders, of a Task that was outlined without weights; `train` opens nano's Task with
its shipped weights and hands its first step to the compiler.
"""

import re
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from raexla.recipe import load
from raexla.train.stages import STAGES
from tests.unit.plan import steps

ROOT = Path(__file__).parents[3]
NANO = ROOT / "recipes" / "nano"
#: Keys that differ from nano's recipe. `sdpa`: a plan is for TPUs, whose attention kernel a CPU doesn't have.
CASES: dict[str, list[str]] = {
    "as it is": ["runtime.attention=sdpa"],
    "everything on": [
        "runtime={type: xla, platform: cpu, devices: 8, attention: sdpa, dtype: bfloat16, scan: true}",
        "runtime.remat=selective",
        "mesh={data: 2, fsdp: 2, tensor: 2}",
        "losses.language_chunks=4",
        "train.accumulate=2",
        "train.global_batch_images=32",
    ],
}


def nano(case: str) -> Any:
    """Nano's pretraining; paths that don't depend on where the tests are started."""
    weights = [
        f"codec.encoder.path={NANO}/artifacts/encoder",
        f"codec.weights.path={NANO}/artifacts/decoder",
        f"model.llm.path={NANO}/artifacts/language",
    ]
    return load(NANO / "pretrain.yaml", STAGES, [*weights, *CASES[case]])


_MARK = re.compile(r'custom_call @Sharding.*mhlo\.sharding = "([^"]*)".*-> (tensor<.*>)$')


_TYPES = {torch.float32: "f32", torch.int32: "i32", torch.uint8: "ui8"}


def summary(text: str) -> dict[str, Any]:
    """A program in numbers: its operations by kind, its results by type, its marks of how something is split, and its
    other lines without names."""
    lines = text.splitlines()
    results = next(line for line in lines if line.lstrip().startswith("return "))  # the first function is `main`
    marks = Counter(" ".join(found.groups()) for line in lines if (found := _MARK.search(line)))
    others = [line for line in lines if not _MARK.search(line) and "func.func" not in line and line != results]
    return {
        "operations": Counter(re.findall(r"\bstablehlo\.(\w+)", "\n".join(others))),
        "results": Counter(re.findall(r"tensor<[^>]*>", results)),
        "marks": marks,
        "lines": Counter(re.sub(r"[%@][\w.#:-]+", "", line).strip() for line in others),
    }


def both(case: str) -> dict[str, Any]:
    """The two programs of a case, in numbers."""
    from raexla.runtime import open_runtime
    from raexla.train.stages import open_task

    recipe = nano(case)
    runtime: Any = open_runtime(recipe.runtime, recipe.mesh)
    task = open_task(recipe, runtime)
    state = {
        name: runtime._xla._XLAC._get_xla_sharding_spec(tensor) or "{replicated}"
        for name, tensor in task.state().items()
    }
    text, arguments = steps.trained(task, runtime, "train")
    plan = steps.planned(recipe, "train")  # second: with placeholders about, nothing can be run any more
    here, there = summary(plan.stablehlo), summary(text)
    placeholders = [held for held in plan.arguments if held.name != "constant"]
    marked = Counter(
        f"{held.sharding} tensor<{''.join(f'{size}x' for size in held.shape)}{_TYPES[held.dtype]}>"
        for held in placeholders
    )
    return {
        "operations": [here["operations"], there["operations"]],
        "only in the plan": {kind: here[kind] - there[kind] for kind in ("lines", "results")}
        | {"marks": here["marks"] - there["marks"] - marked},
        "only in training": {kind: there[kind] - here[kind] for kind in ("lines", "results", "marks")},
        "arguments": [[[list(a.shape), str(a.dtype), a.sharding] for a in plan.arguments], arguments],
        "constants": [list(held.shape) for held in plan.arguments if held.name == "constant"],
        "named": {held.name: held.sharding for held in placeholders},
        "state": state,
    }


@pytest.fixture(scope="module")
def programs(in_process: Callable[..., Any]) -> dict[str, Any]:
    return {case: in_process(both, case) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_the_programs_have_the_same_operations(case: str, programs: dict[str, Any]) -> None:
    """Line by line but for names and order. What a plan has more, and why:

    - a mark for each placeholder: it says how it is split by an operation, an argument with values by an attribute; so
      do the tables of positions that loops read from outside, which stand whole on every device;
    - a result: the DiT's time frequencies are state that no step changes, but a placeholder counts as changed. It is
      donated to itself.
    """
    found = programs[case]
    plan, train = found["operations"]
    assert plan["dot_general"] > 50
    assert plan == train
    assert found["only in training"] == {"lines": {}, "results": {}, "marks": {}}
    more = found["only in the plan"]
    assert more["lines"] == {}
    assert more["results"] == {"tensor<256xf32>": 1}
    tables = {"{replicated} tensor<16xf32>", "{replicated} tensor<16x40xf32>"}
    assert set(more["marks"]) == (tables if plan.get("while") else set())


@pytest.mark.parametrize("case", CASES)
def test_the_programs_take_the_same_arguments_split_the_same_way(case: str, programs: dict[str, Any]) -> None:
    found = programs[case]
    plan, train = found["arguments"]
    assert sorted(plan) == sorted(train)
    # numbers that stand in the code have no name, nor have the tables of positions that loops read
    assert all(prod(shape) <= 640 for shape in found["constants"])
    shared = found["state"].keys() & found["named"].keys()
    assert len(shared) > 400
    assert {name: found["named"][name] for name in shared} == {name: found["state"][name] for name in shared}


def test_blocks_are_loops_in_both_where_loops_are_asked_for(programs: dict[str, Any]) -> None:
    loops = {case: found["operations"][0].get("while", 0) for case, found in programs.items()}
    assert loops["as it is"] == 0
    assert loops["everything on"] >= 4
