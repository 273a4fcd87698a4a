"""The recipes of paper 000 beyond its decoder say what its tables say, and differ from each other in nothing else.

The tables stand here a second time, written out from the paper; the recipes' values come from YAML.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from raexla.data.loader import GROUPS
from raexla.data.mixture import Mixture, Share
from raexla.models.dit import DDTHeadRecipe, DiTRecipe, LightningDiT
from raexla.models.published import PUBLISHED
from raexla.plan.model import model_of
from raexla.plan.outline import outline_model
from raexla.recipe import load
from raexla.train.stages import STAGES

ROOT = Path(__file__).parents[2]
FLAGSHIP = "qwen2.5-1.5b-dit-2.4b"
TUNED = f"{FLAGSHIP}-64-epochs"

# part -> peak rate, betas; then warm-up ratio and batch
TABLE_8 = ({"llm": (5e-5, (0.9, 0.999)), "dit": (5e-4, (0.9, 0.95))}, 0.0134, 2048)
TABLE_9 = ({"llm": (5.66e-5, (0.9, 0.999)), "dit": (5.66e-4, (0.9, 0.95))}, 0.03, 1024)
# hidden size, heads, depth
TABLE_10 = {
    "0.5B": (1280, 32, 16), "2.4B": (2048, 32, 32), "3.3B": (2304, 32, 32), "5.5B": (3072, 32, 32),
    "9.8B": (4096, 32, 32),
}  # fmt: skip
# rows of captions by source and of conversations, of a batch of 2048
WEB, SYNTHETIC = 1792 * 39.3 / 64, 1792 * 24.7 / 64
TABLE_3 = {
    "data-synthetic": {"synthetic": 1792}, "data-synthetic-x2": {"synthetic": 896, "synthetic_2": 896},
    "data-web": {"web": 1792}, "data-web-x2": {"web": 896, "web_2": 896},
}  # fmt: skip
# GenEval and DPG-Bench where the paper prints them
SCORES = {
    f"pretrain/{FLAGSHIP}": ("49.5", "76.9"),  # Table 4
    f"pretrain/{FLAGSHIP}-webssl": ("46.0", "72.8"),
    f"pretrain/{FLAGSHIP}-flux": ("39.6", "70.5"),
    "pretrain/qwen2.5-1.5b-dit-5.5b": ("53.2",),  # Table 5
    "pretrain/qwen2.5-7b-dit-5.5b": ("55.5",),
    "ablations/data-synthetic": ("45.1", "73.8"),  # Table 3
    "ablations/data-synthetic-x2": ("48.0", "75.2"),
    "ablations/data-web": ("25.9", "69.5"),
    "ablations/data-web-x2": ("26.3", "70.6"),
    "ablations/no-time-shift": ("23.6", "54.8"),  # section 3.2
    "ablations/ddt-head-0.5b": ("11.2",),  # section 3.3
    f"finetune/{TUNED}": ("79.4", "78.2"),  # section 4.2
    f"finetune/{FLAGSHIP}-flux-64-epochs": ("78.2",),
    f"finetune/{FLAGSHIP}-dit-only": ("79.4",),
    f"finetune/{FLAGSHIP}-flux-dit-only": ("78.2",),
}


class Point(NamedTuple):
    """A run of Figs. 1 and 5 or Table 4."""

    llm: str = "1.5B"
    dit: str = "2.4B"
    codec: str = "siglip2"
    steps: int = 30_000


def _stem(point: Point) -> str:
    codec = "" if point.codec == "siglip2" else f"-{point.codec}"
    long = "" if point.steps == 30_000 else f"-{point.steps // 1000}k"
    return f"qwen2.5-{point.llm}-dit-{point.dit}".lower() + codec + long


POINTS = [
    *(Point(codec=codec, steps=steps) for codec in ("siglip2", "flux") for steps in (30_000, 60_000)),  # Fig. 1
    Point(codec="webssl"),  # Table 4
    *(Point(dit=dit, codec=codec) for dit in ("0.5B", "5.5B", "9.8B") for codec in ("siglip2", "flux")),  # Fig. 5a
    *(Point("7B", dit, codec) for dit in ("2.4B", "5.5B", "9.8B") for codec in ("siglip2", "flux")),  # Fig. 5b
    Point(dit="3.3B"),  # Fig. 4b
]
# codec -> tokens' grid, channels, time shift, image size, what reads pictures
LATENTS = {
    "siglip2": ((16, 16), 1152, 8.48528, 224, "siglip2-so400m"),
    "webssl": ((16, 16), 1024, 8.0, 224, "webssl-dino300m"),
    "flux": ((16, 16), 64, 2.0, 256, "siglip2-so400m"),
}
# name -> codec, epochs, whether the language model is trained: Figs. 6, 7 (left) and 10
TUNINGS = {
    **{f"{FLAGSHIP}-{epochs}-epochs": ("siglip2", epochs, True) for epochs in (4, 16, 64, 128, 256, 512)},
    **{f"{FLAGSHIP}-flux-{epochs}-epochs": ("flux", epochs, True) for epochs in (4, 16, 64, 128, 256)},
    f"{FLAGSHIP}-dit-only": ("siglip2", 64, False),
    f"{FLAGSHIP}-flux-dit-only": ("flux", 64, False),
}
EPOCH_STEPS = {4: 235, 16: 938, 64: 3750, 128: 7500, 256: 15_000, 512: 30_000}
"""ceil(epochs x 60,000 / 1024)"""
HEADS = {"ddt-head-0.5b": "0.5B", "ddt-head-2.4b": "2.4B", "ddt-head-3.3b": "3.3B"}
ABLATIONS = {"no-time-shift", "decoder-noise", *HEADS, *TABLE_3}
UNIFIED_ABLATIONS = sorted(ABLATIONS - {"decoder-noise"})


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in recipes are relative to the repository."""
    monkeypatch.chdir(ROOT)


@lru_cache
def _load(name: str, *overrides: str) -> Any:
    return load(f"recipes/{name}.yaml", STAGES, overrides)


def _files(folder: str) -> set[str]:
    return {path.stem for path in (ROOT / "recipes" / folder).glob("*.yaml")}


def _rows(recipe: Any) -> dict[str, float]:
    """Rows of a batch by source, as the loader mixes them."""
    shares = [Share(source.name, GROUPS[source.kind], source.weight) for source in recipe.data.sources]
    order = recipe.data.order
    batch = recipe.train.global_batch_images
    mixture = Mixture(shares, batch_rows=batch, streams=order.streams, block=order.block, seed=0)
    return {name: part * batch for name, part in mixture.effective_weights().items()}


def _changed(parent: Any, child: Any, path: str = "") -> set[str]:
    """Dotted paths whose values differ; a map of another `type` counts as one."""
    same_kind = isinstance(parent, dict) and isinstance(child, dict) and parent.get("type") == child.get("type")
    if not same_kind:
        return set() if parent == child else {path}
    names = parent.keys() | child.keys()
    return {
        found
        for name in names
        for found in _changed(parent.get(name), child.get(name), f"{path}.{name}".removeprefix("."))
    }


def _differs(name: str, of: str) -> set[str]:
    found = _changed(_load(of).model_dump(), _load(name).model_dump())
    assert "run.dir" in found
    return found - {"run.dir"}


def test_there_is_a_recipe_of_every_point_and_no_other():
    assert _files("pretrain") == {_stem(point) for point in POINTS}
    assert _files("finetune") == set(TUNINGS)
    assert _files("ablations") == ABLATIONS
    assert len(POINTS) + len(TUNINGS) + len(ABLATIONS) < 45


def _check_optimisers(recipe: Any, table: Any) -> None:
    rates, warmup, batch = table
    for name, (rate, betas) in rates.items():
        part = getattr(recipe.optim, name)
        if part is None:
            continue
        assert (part.lr, part.betas) == (rate, betas)
        assert (part.schedule.type, part.schedule.warmup_fraction, part.schedule.min_lr) == ("cosine", warmup, 0.0)
        assert (part.clip, part.weight_decay, part.ema) == (1.0, 0.0, None)
    assert recipe.train.global_batch_images == batch
    assert (recipe.losses.language, recipe.losses.diffusion) == (1.0, 2.0)


@pytest.mark.parametrize("point", POINTS, ids=_stem)
def test_pretraining_is_table_8(point):
    recipe = _load(f"pretrain/{_stem(point)}")
    _check_optimisers(recipe, TABLE_8)
    assert recipe.train.total_steps == point.steps
    for rows in (1792, 256):
        assert rows % (64 * recipe.train.accumulate) == 0
    warmup = recipe.optim.llm.schedule.warmup(recipe.train.total_steps)
    assert warmup == {30_000: 402, 60_000: 804}[point.steps]
    assert recipe.model.llm.path == f"Qwen/Qwen2.5-{point.llm}-Instruct"
    assert recipe.model.llm.queries == 256
    dit = recipe.model.dit
    assert (dit.width, dit.heads, dit.depth) == TABLE_10[point.dit]
    assert (dit.head, dit.condition_dropout, dit.patch_size) == (None, 0.1, 1)
    grid, channels, shift, size, reader = LATENTS[point.codec]
    assert recipe.flow.factor(grid[0] * grid[1], channels) == pytest.approx(shift, abs=1e-5)
    assert recipe.flow.density == "logit_normal"
    assert recipe.transform.size == size
    assert reader in (recipe.understanding or recipe.codec.encoder).path
    assert recipe.chat.length == 512


@pytest.mark.parametrize("name", TUNINGS)
def test_finetuning_is_table_9(name):
    codec, epochs, both = TUNINGS[name]
    recipe = _load(f"finetune/{name}")
    _check_optimisers(recipe, TABLE_9)
    assert (recipe.optim.llm is not None) == both
    assert recipe.train.total_steps == EPOCH_STEPS[epochs]
    assert recipe.train.epoch_images == 60_000
    assert [source.kind for source in recipe.data.sources] == ["caption"]
    assert recipe.chat_length == 1024
    start = _load(f"pretrain/{_stem(Point(codec=codec))}")
    assert recipe.init.path == f"{start.run.dir}/artifact"
    assert Path(recipe.init.recipe) == Path(f"recipes/pretrain/{_stem(Point(codec=codec))}.yaml")
    assert recipe.transform == start.transform
    assert start.train.total_steps == 30_000


def test_the_flagship_mixes_web_and_synthetic_by_their_sizes():
    rows = _rows(_load(f"pretrain/{FLAGSHIP}"))
    assert rows["cambrian"] == 256
    assert rows["web"] == pytest.approx(WEB, rel=0.01)
    assert rows["synthetic"] == pytest.approx(SYNTHETIC, rel=0.01)


@pytest.mark.parametrize("name", TABLE_3)
def test_data_compositions_are_those_of_table_3(name):
    assert _rows(_load(f"ablations/{name}")) == TABLE_3[name] | {"cambrian": 256}
    paths = [source.path for source in _load(f"ablations/{name}").data.sources]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("chips", [64, 128, 256])
@pytest.mark.parametrize("name", [f"pretrain/{FLAGSHIP}", "ablations/data-web-x2"])
def test_the_groups_divide_over_the_chips(name, chips):
    rows = _rows(_load(name))
    asked = rows.pop("cambrian")
    assert (sum(rows.values()), asked) == (1792, 256)
    assert sum(rows.values()) % chips == asked % chips == 0


def _expected(point: Point) -> set[str]:
    """The keys that a point's name says differ from the flagship's."""
    keys = {"model.dit.size", "model.dit.width"} if point.dit != "2.4B" else set()
    keys |= {"model.dit.depth"} if point.dit == "0.5B" else set()
    keys |= {"model.llm.path"} if point.llm != "1.5B" else set()
    keys |= {"train.steps"} if point.steps != 30_000 else set()
    keys |= (
        {"train.accumulate"} if (point.llm, point.dit) == ("7B", "9.8B") else set()
    )  # to fit; the result is the same
    if point.codec == "flux":
        keys |= {"codec", "understanding", "transform.size"}
    if point.codec == "webssl":
        keys |= {"codec.encoder", "codec.weights.path", "transform"}
    return keys


@pytest.mark.parametrize("point", [point for point in POINTS if point != Point()], ids=_stem)
def test_nothing_differs_from_the_flagship_but_what_the_name_says(point):
    assert _differs(f"pretrain/{_stem(point)}", f"pretrain/{FLAGSHIP}") == _expected(point)


@pytest.mark.parametrize("name", [name for name in TUNINGS if name != TUNED])
def test_nothing_differs_from_64_epochs_but_what_the_name_says(name):
    codec, epochs, both = TUNINGS[name]
    keys = {"train.epochs"} if epochs != 64 else set()
    keys |= {"init.path", "init.recipe", "transform.size"} if codec == "flux" else set()
    keys |= set() if both else {"optim.llm"}
    assert _differs(f"finetune/{name}", f"finetune/{TUNED}") == keys


def test_an_ablation_changes_one_thing():
    assert _differs("ablations/no-time-shift", f"pretrain/{FLAGSHIP}") == {"flow.shift"}
    assert _load("ablations/no-time-shift").flow.factor(256, 1152) == 1.0
    assert _differs("ablations/decoder-noise", "decoder/siglip2-so400m") == {"noise.tau"}
    assert _load("ablations/decoder-noise").noise.tau == 0.2
    assert _load("ablations/decoder-noise").noise.kind == "half_normal"
    for name in TABLE_3:
        assert _differs(f"ablations/{name}", f"pretrain/{FLAGSHIP}") == {"data.sources"}
    for name, size in HEADS.items():
        assert _differs(f"ablations/{name}", f"pretrain/{_stem(Point(dit=size))}") == {"model.dit.head"}


def _parameters(dit: DiTRecipe, codec: str) -> int:
    grid, channels, *_ = LATENTS[codec]
    with torch.device("meta"):
        return sum(p.numel() for p in LightningDiT(dit, grid, channels).parameters())


@pytest.mark.parametrize("codec", LATENTS)
@pytest.mark.parametrize("size", TABLE_10)
def test_a_dit_is_as_large_as_it_is_called(size, codec):
    """3.3B is called 3.1B in section 3.3, which is right."""
    called = 3.1 if size == "3.3B" else float(size[:-1])
    assert _parameters(DiTRecipe.model_validate({"size": size}), codec) / 1e9 == pytest.approx(called, rel=0.045)


@pytest.mark.parametrize(("name", "size"), HEADS.items())
def test_a_wide_head_adds_0_28_billion(name, size):
    """Section 3.3; a little less on narrower backbones, whose output is projected."""
    recipe = _load(f"ablations/{name}").model.dit
    assert recipe.head == DDTHeadRecipe(wiring="scale_rae", width=2688, depth=2, heads=21)
    plain = recipe.model_copy(update={"head": None})
    assert (_parameters(recipe, "siglip2") - _parameters(plain, "siglip2")) / 1e9 == pytest.approx(0.28, abs=0.01)


@pytest.mark.parametrize("codec", LATENTS)
@pytest.mark.parametrize("steps", [30_000, 60_000])
def test_every_combination_is_a_recipe_and_overrides(codec, steps):
    """2 language models x 5 DiTs on each latent; those that the paper has no number of have no file."""
    for llm in ("1.5B", "7B"):
        for dit in TABLE_10:
            recipe = _load(
                f"pretrain/{_stem(Point(codec=codec))}", f"model.llm.path=Qwen/Qwen2.5-{llm}-Instruct",
                f"model.dit.size={dit}", f"train.steps={steps}",
            )  # fmt: skip
            point = Point(llm, dit, codec, steps)
            assert (recipe.model.dit.width, recipe.model.dit.heads, recipe.model.dit.depth) == TABLE_10[dit]
            assert recipe.model.llm.path in PUBLISHED
            if point in POINTS:
                of = _load(f"pretrain/{_stem(point)}").model_dump()
                assert _changed(of, recipe.model_dump()) - {"run.dir", "train.accumulate"} == set()


@pytest.mark.parametrize("point", [Point(), Point("7B", "9.8B", "flux"), Point(codec="webssl")], ids=_stem)
def test_it_opens_without_weights(point):
    recipe = _load(f"pretrain/{_stem(point)}")
    model = outline_model(model_of(recipe), recipe.transform.size)
    grid, channels, shift, size, _ = LATENTS[point.codec]
    assert (model.codec.grid, model.codec.channels, model.codec.image_size) == (grid, channels, size)
    assert model.shift == pytest.approx(shift, abs=1e-5)
    language = sum(p.numel() for p in model.unified.mllm.parameters()) / 1e9
    assert language == pytest.approx({"1.5B": 1.55, "7B": 7.65}[point.llm], rel=0.005)
    read = 1024 if point.codec == "webssl" else 1152
    assert model.unified.mllm.projector[0].in_features == read
    assert all(p.is_meta for p in model.unified.parameters())


@pytest.mark.parametrize("name", [f"finetune/{TUNED}", f"finetune/{FLAGSHIP}-flux-dit-only"])
def test_a_tuned_model_is_the_pretrained_one_at_its_own_length(name):
    recipe = _load(name)
    model = model_of(recipe)
    assert model.model == _load(recipe.init.recipe.removeprefix("recipes/").removesuffix(".yaml")).model
    assert model.chat.length == 1024


def _head(name: str) -> str:
    text = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    return " ".join(lines)


@pytest.mark.parametrize("name", SCORES)
def test_the_header_has_the_papers_numbers(name):
    expected = _head(name).split("Expect: ")[1]
    for score in SCORES[name]:
        assert score in expected


@pytest.mark.parametrize("folder", ["pretrain", "finetune", "ablations"])
def test_headers_say_what_is_an_estimate_and_variants_are_short(folder):
    for stem in _files(folder):
        head, text = _head(f"{folder}/{stem}"), (ROOT / "recipes" / folder / f"{stem}.yaml").read_text(encoding="utf-8")
        assert "estimate" in head.split("Time:")[1].split("Expect:")[0]
        assert "never run" in head
        assert "000" in head
        body = [line for line in text.splitlines() if not line.startswith("#")]
        assert stem in (FLAGSHIP, TUNED) or len(body) <= 8
        assert all(len(line) <= 120 for line in text.splitlines())


def test_every_recipe_stands_in_the_table():
    listed = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "recipes").rglob("*.yaml"):
        assert f"({path.relative_to(ROOT / 'recipes')})" in listed, path
