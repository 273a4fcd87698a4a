"""What a plan says, with nano's real compiled program (see test_program.py) and in closed form."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from raexla.cli import main
from raexla.plan.compiler import Compiled
from raexla.plan.estimate import LINKS, MEMORY, PRODUCTS, Assumptions, estimate_program
from raexla.plan.intake import PICTURE_BYTES, intake
from raexla.plan.page import render
from raexla.plan.report import Plan
from raexla.plan.text import lines
from raexla.plan.verb import plan_recipe
from raexla.plan.waste import by_network, run_again
from raexla.recipe import load
from raexla.train.stages import STAGES
from tests.unit.plan.test_program import MESH, facts, text

__all__ = ["facts", "text"]  # fixtures

NANO = "recipes/nano/pretrain.yaml"
SET = ["mesh.data=4", "mesh.fsdp=1", "runtime.scan=true"]


@pytest.fixture(scope="module")
def quick() -> Plan:
    return plan_recipe(load(NANO, STAGES, SET), NANO, "v5e:2x2", quick=True)


@pytest.fixture(scope="module")
def plan(quick: Plan, facts: Any) -> Plan:
    """As `plan_recipe` puts it together when the program is compiled."""
    peak = facts.peak_bytes / 2**30
    made = Compiled(9.0, 1e9, 1e9, peak, 0.01, 0.01, 0.01, 0.02, "")
    mesh = {**MESH, "tensor": 1}
    return replace(quick, compiled=made, facts=facts, estimate=estimate_program(quick.counts, quick.where, mesh, facts))


def test_the_parts_of_memory_add_up_to_the_peak(plan, quick):
    assert sum(plan.standing_gib.values()) == pytest.approx(plan.peak_hbm_gib, abs=0.02)  # but for what is tiny
    assert sum(quick.standing_gib.values()) == pytest.approx(quick.peak_hbm_gib, abs=0.03)


def test_a_program_takes_the_time_of_its_instructions_and_collectives(plan, facts):
    guess, chip = plan.estimate, plan.where.chip
    assert guess.source == "compiled program"
    assert guess.compute == pytest.approx(sum(t.flops for t in facts.timed) / (0.75 * chip.bf16_flops))
    assert guess.compute >= 0.99 * facts.product_flops / (0.75 * chip.bf16_flops)
    assert guess.memory > 0
    # all of nano's gradients are added up over data=4: a 2x2 slice of two open lines
    sent = sum(c.total for c in facts.collectives)
    assert guess.collectives == pytest.approx(sent / (2 * chip.link_bandwidth * 0.8), rel=0.01)
    assert guess.step_seconds == pytest.approx(sum(guess.terms.values()) - guess.hidden)
    assert 0 < guess.mfu < quick_mfu(plan)


def quick_mfu(plan: Plan) -> float:
    """Of the matrix products alone."""
    return plan.counts.model_flops / (plan.estimate.compute * plan.where.peak_flops)


def test_better_assumptions_are_faster_and_overlap_hides_what_runs_beside(plan, facts):
    def step(**assumed: float) -> float:
        guess = estimate_program(plan.counts, plan.where, plan.mesh, facts, Assumptions(**assumed))
        return guess.step_seconds

    assert step(matmul_efficiency=0.5) > step() > step(hbm_efficiency=1.0)
    assert step(link_efficiency=0.4) > step()
    hidden = sum(c.total for c in facts.collectives if c.hidden)
    assert (step(overlap=0.0) > step(overlap=1.0)) == (hidden > 0)


def test_nothing_is_run_again_without_remat(plan, facts):
    assert not run_again(facts)
    assert plan.waste == pytest.approx(0, abs=0.01)
    assert sum(by_network(facts).values()) == facts.product_flops
    assert {"language model", "DiT"} <= set(by_network(facts))


def test_what_is_run_again_is_named_by_weight(facts):
    places = facts.flops_by_place
    weight = next(name for name in places if f"{name} (gradient)" in places)
    more = places[weight] + places[f"{weight} (gradient)"]
    remade = SimpleNamespace(flops_by_place={**places, weight: more}, product_flops=facts.product_flops)
    assert list(run_again(remade)) == [weight]  # type: ignore[arg-type]


def test_json_keeps_its_keys(plan, quick):
    for one in (plan, quick):
        found = json.loads(json.dumps(one.as_dict()))
        assert {"fits", "peak_hbm_gib", "mfu", "step_seconds", "images_per_second_per_chip"} <= set(found)
        assert sum(found["seconds_by_term"].values()) >= found["step_seconds"]
    found = plan.as_dict()
    assert "hlo" not in found["compiler"]
    assert found["program"]["run_again"] == {}
    eaten = found["input"]
    assert eaten["bytes_per_second"] == pytest.approx(found["images_per_second"] * PICTURE_BYTES)
    assert quick.as_dict()["program"] is None


def test_the_text_says_all_of_it(plan, quick):
    said = "\n".join(lines(plan))
    for part in (
        PRODUCTS,
        MEMORY,
        LINKS,
        "all-reduce along data",
        "largest temporaries",
        "by network",
        "has met a TPU",
    ):
        assert part in said
    assert "the optimiser's numbers" in "\n".join(lines(quick))
    assert "1 host reads" in said
    refused = "\n".join(lines(replace(quick, refused_gib=99.0)))
    assert "it needs 99.0 GiB" in refused
    assert "DOES NOT FIT" in refused


def test_latents_are_read_in_their_own_size():
    sources = (
        "data.sources=[{name: a, path: x, kind: caption, latents: float16}, {name: b, path: y, kind: conversation}]"
    )
    recipe = load(NANO, STAGES, [*SET, sources])
    found = intake(recipe)
    assert "a stored latent" in found.said
    assert found.sample_bytes < PICTURE_BYTES
    assert intake(load("recipes/nano/decoder.yaml", STAGES)).sample_bytes == PICTURE_BYTES


def test_the_page_holds_everything_it_shows(plan, quick):
    for one in (plan, quick, replace(quick, refused_gib=99.0)):
        html = render(one)
        assert not re.search(r"<script|src=|https?://|@import|url\(", html)
        body = html[html.index("<body>") : html.index("</body>") + 7]
        ElementTree.fromstring(re.sub(r"&\w+;", "", body))  # every tag is closed
        assert "none of these figures has met a TPU" in html
        assert ('id="links"' in html) == (one.facts is not None)
        widths = [float(width) for width in re.findall(r"width: ([\d.]+)%", body)]
        assert widths
        assert max(widths) <= 100


def test_the_command_line_writes_the_page(tmp_path: Path, capsys):
    page = tmp_path / "plan.html"
    command = ["plan", NANO, "--topology", "v5e:2x2", "--quick", "--set", "mesh.data=4", "--set", "mesh.fsdp=1"]
    assert main([*command, "--html", str(page)]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "fits:" in capsys.readouterr().out
    assert main([*command, "--html", str(tmp_path / "gone" / "plan.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main([*command, "--hlo", str(tmp_path / "x.hlo")]) == 2
    assert "--quick compiles nothing" in capsys.readouterr().err
    assert main([*command, "--phase", "critic"]) == 2
    assert "this recipe has train" in capsys.readouterr().err
