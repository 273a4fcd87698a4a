"""The facts of a real program: nano's training step with scanned blocks, compiled by libtpu for v5e:2x2 (mesh data 4).

The fixture is the compiler's text without what nothing reads (types in headers, most metadata); its arguments' names
stand first. The plan was that of `recipes/nano/pretrain.yaml --topology v5e:2x2` with mesh.data=4, mesh.fsdp=1 and
runtime.scan=true.
"""

import json
import lzma
from pathlib import Path
from types import SimpleNamespace

import pytest

from raexla.models.flops import llm_work
from raexla.plan.analytic import count
from raexla.plan.hlo.text import HloError
from raexla.plan.program import PARTS, lines, part_of, read_program, scope
from raexla.plan.sizes import language_parameters, read_sizes
from raexla.recipe import load
from raexla.train.stages import STAGES

FIXTURE = Path(__file__).with_name("hlo") / "nano_scanned.hlo.xz"
CHIPS = 4
MESH = {"data": 4, "fsdp": 1}


@pytest.fixture(scope="module")
def text():
    names, hlo = lzma.decompress(FIXTURE.read_bytes()).decode().split("\n\n", 1)
    return [SimpleNamespace(name=name) for name in names.split("\n")], hlo


@pytest.fixture(scope="module")
def facts(text):
    named, hlo = text
    return read_program(hlo, named, MESH)


@pytest.fixture(scope="module")
def recipe():
    settings = ["mesh.data=4", "mesh.fsdp=1", "runtime.scan=true"]
    return load(Path(__file__).parents[3] / "recipes/nano/pretrain.yaml", STAGES, settings)


def test_the_program_does_the_models_own_flops(facts, recipe):
    counts = count(recipe)
    assert facts.product_flops * CHIPS == pytest.approx(counts.model_flops, rel=0.01)
    unrolled_once = sum(p.flops for p in facts.products)
    assert unrolled_once * CHIPS < 0.5 * counts.model_flops  # what the compiler's own analysis would say


def test_every_linear_of_the_llm_is_named_and_counted_exactly(facts, recipe):
    config = read_sizes(recipe.model.llm.path)
    found = facts.flops_by_place
    tokens = 3 * 64 + 96  # a chip's: three captions of 64 and a conversation of 96
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    names += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    together = 0
    for name in names:
        weight = f"mllm.llm.layers.*.{name}.weight"
        gradient = sum(flops for place, flops in found.items() if weight in place and place.endswith("(gradient)"))
        assert found[weight] == pytest.approx(2 * gradient, rel=0.03)  # forward and dX against dW
        together += found[weight] // 2
    assert together * 64 == 2 * tokens * llm_work(config, 64)["blocks"]


def test_loops_are_the_stacks_of_blocks(facts):
    encoder, llm, dit = [3, 3], [3, 3, 3, 3], [4, 4]  # captions and conversations; forward and backward
    assert sorted(loop.trips for loop in facts.loops) == sorted(encoder + llm + dit)


def test_data_parallel_chips_send_their_gradients(facts, recipe):
    trained = sum(part.parameters for part in count(recipe).parts if part.trained)
    # captions and conversations go through the language model one after the other: its gradients are reduced twice
    twice = sum(language_parameters(read_sizes(recipe.model.llm.path)).values())
    reduced = facts.sent_by_kind["all-reduce", "data"]
    assert reduced == pytest.approx(2 * (CHIPS - 1) / CHIPS * 4 * (trained + twice), rel=0.01)
    assert reduced > 0.95 * facts.sent_bytes
    assert facts.largest_collectives(1)[0].total == max(c.total for c in facts.collectives)


def test_arguments_stand_in_their_parts(facts, recipe):
    trained = sum(part.parameters for part in count(recipe).parts if part.trained)
    sizes = facts.arguments
    assert tuple(sizes) == PARTS
    assert 4 * trained < sizes["weights"] < 1.2 * 4 * trained  # padded
    assert 2 * sizes["weights"] <= sizes["optimiser"] < 2.2 * sizes["weights"]
    assert 0 < sizes["averages"] < sizes["weights"]
    assert facts.peak_bytes == sum(sizes.values()) + facts.peak.bytes
    assert sum(b.bytes for b in facts.temporaries) >= facts.peak.bytes


def test_facts_are_json_and_lines(facts):
    said = json.loads(json.dumps(facts.as_dict(most=3)))
    assert said["product_flops"] == facts.product_flops
    assert len(said["flops_by_place"]) == len(said["largest_temporaries"]) == 3
    told = "\n".join(lines(facts, facts.product_flops / 1.25, most=3))
    assert "+25.0% of the model's own" in told
    assert "all-reduce along data" in told
    assert facts.operations["while"] == len(facts.loops)


def test_names_of_other_arguments_are_refused(text):
    named, hlo = text
    with pytest.raises(HloError, match=rf"{len(named)} arguments, {len(named) - 1} are named"):
        read_program(hlo, named[1:], MESH)
    alone = read_program(hlo)
    assert alone.arguments["constants"] > 0
    assert alone.arguments["weights"] == 0


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model/dit.blocks.0.attn.qkv.weight", "weights"),
        ("optim/dit/x/exp_avg", "optimiser"),
        ("ema/dit/x", "averages"),
        ("RAECodec", "frozen"),
        ("batch", "batch"),
        ("controls", "constants"),
    ],
)
def test_parts_by_name(name, part):
    assert part_of(name) == part


def test_a_scope_loses_its_numbers():
    assert scope("xla__scan/call.10067/aten__mm") == "scan/mm"
    assert scope("aten__norm.3/aten__norm") == "norm"
    assert scope("") == ""
