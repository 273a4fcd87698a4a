"""`raexla plan --sweep`: what is listed fits, in order, over meshes that the rows divide over."""

import json
from math import prod
from typing import Any

import pytest

from raexla.cli import main
from raexla.plan.report import USABLE
from raexla.plan.slices import Slice
from raexla.plan.sweep import meshes, sweep_recipe
from raexla.plan.verb import plan_recipe
from raexla.recipe import UserError, load
from raexla.train.stages import STAGES

NANO = "recipes/nano/pretrain.yaml"
FLAGSHIP = "recipes/pretrain/qwen2.5-1.5b-dit-2.4b.yaml"


@pytest.fixture(scope="module")
def flagship() -> Any:
    return load(FLAGSHIP, STAGES)


@pytest.fixture(scope="module")
def found(flagship):
    return sweep_recipe(flagship, FLAGSHIP, "v6e:8x8")


def test_all_that_is_listed_fits_and_the_best_stands_first(found):
    assert 0 < len(found.ranked) < found.tried  # some settings are too large for 32 GiB
    assert all(one.hbm_gib <= USABLE * 32 for one in found.ranked)
    rates = [one.estimate.images_per_second_per_chip for one in found.ranked]
    assert rates == sorted(rates, reverse=True)
    assert found.least.hbm_gib == min(one.hbm_gib for one in found.ranked)


def test_meshes_fill_the_slice_and_rows_divide(found, flagship):
    weights = [source.weight for source in flagship.data.sources]
    for one in found.ranked:
        assert prod(one.mesh.values()) == 64
        shards = one.mesh["data"] * one.mesh["fsdp"] * one.accumulate
        asked = one.global_batch_images * weights[2] / sum(weights)
        assert (one.global_batch_images - asked) % shards == 0 == asked % shards
    assert len({tuple(one.changed.items()) for one in found.ranked}) == len(found.ranked)


def test_a_rank_is_what_a_quick_plan_of_its_settings_says(found):
    for one in (found.ranked[0], found.ranked[len(found.ranked) // 2], found.ranked[-1]):
        recipe = load(FLAGSHIP, STAGES, [f"{key}={value}" for key, value in one.changed.items()])
        plan = plan_recipe(recipe, FLAGSHIP, "v6e:8x8", quick=True)
        assert plan.estimate == one.estimate
        assert plan.peak_hbm_gib == one.hbm_gib


def test_a_tensor_axis_divides_the_heads_and_data_the_slices():
    found = list(meshes(Slice.parse("v5p:2x2x2", slices=2), (12, 2, 32)))
    assert {mesh["tensor"] for mesh in found} == {1, 2}
    assert all(mesh["data"] % 2 == 0 and prod(mesh.values()) == 16 for mesh in found)
    assert len(found) == 4 + 3


def test_batches_are_tried_when_they_are_asked_for(flagship):
    found = sweep_recipe(flagship, FLAGSHIP, "v5p:4x4x4", batches=[1024, 2048])
    assert {one.global_batch_images for one in found.ranked} == {1024, 2048}
    halves = [one for one in found.ranked if one.global_batch_images == 1024]
    assert all(one.changed["train.global_batch_images"] == 1024 for one in halves)


def test_gathering_over_all_three_dims_of_a_torus_costs_more(flagship):
    found = sweep_recipe(flagship, FLAGSHIP, "v5p:4x4x4")
    by = {tuple(one.mesh.values()): one.estimate.collectives for one in found.ranked
          if (one.remat, one.accumulate) == ("blocks", 1)}  # fmt: skip
    assert by[1, 64, 1] > by[4, 16, 1]


def test_what_fits_nowhere_says_what_the_least_needs():
    recipe = load("recipes/pretrain/qwen2.5-7b-dit-9.8b.yaml", STAGES)
    found = sweep_recipe(recipe, "large", "v5e:2x2")
    assert not found.ranked
    assert f"the least needs {found.least.hbm_gib:.1f} GiB" in "\n".join(found.lines())


def test_rows_that_divide_nowhere_are_named():
    recipe = load(FLAGSHIP, STAGES, ["train.global_batch_images=2047"])
    with pytest.raises(UserError, match="--sweep: no mesh of 64 chips over which a step's rows divide"):
        sweep_recipe(recipe, FLAGSHIP, "v5p:4x4x4")


def test_the_command_line(capsys):
    assert main(["plan", NANO, "--topology", "v5e:2x2", "--sweep", "--top", "3"]) == 0
    said = capsys.readouterr().out
    assert "images/s a chip" in said
    assert "more (--top)" in said
    assert f"raexla plan {NANO} --topology v5e:2x2" in said
    assert main(["plan", NANO, "--topology", "v5e:2x2", "--sweep", "--json"]) == 0
    ranked = json.loads(capsys.readouterr().out)["ranked"]
    assert all(one["fits"] for one in ranked)
