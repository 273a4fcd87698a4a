"""Recipe files -> objects: inheritance, overrides, and every problem named at once."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from raexla.recipe import UserError, load, load_text
from tests.unit.recipe.toy import BASE, STAGES, Adam, Pretrain, Rae, Source, Train, Vae

STAGE_NAMES = "(valid: pretrain, decoder)"
KEYS = "(valid here: stage, codec, guide, sources, optim, train, mesh, note)"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    return tmp_path


def problems_of(text: str, *overrides: str) -> list[str]:
    """The lines of the error that loading this child of base.yaml gives."""
    Path("child.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load("child.yaml", STAGES, overrides)
    lines = str(caught.value).splitlines()
    if len(lines) > 1:
        assert lines[0] == f"the recipe has {len(lines) - 1} problems"
        lines = [line.removeprefix("  ") for line in lines[1:]]
    return lines


def test_a_recipe_becomes_typed_objects(folder):
    assert load("base.yaml", STAGES) == Pretrain(
        stage="pretrain",
        codec=Rae(type="rae", decoder=Path("artifacts/decoder"), scale=2.0),
        sources=(Source(path="a.tar", weight=0.5), Source(path="b.tar", kind="conversation")),
        optim={"llm": Adam(lr=1e-4)},
        train=Train(steps=10),
    )


def test_recipes_are_frozen(folder):
    recipe = load("base.yaml", STAGES)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.note = "x"


def test_the_stage_chooses_the_type(folder):
    recipe = load_text("{stage: decoder, train: {steps: 3}}", STAGES)
    assert type(recipe) is STAGES["decoder"]


def test_extends_through_three_files_in_different_folders(folder):
    (folder / "more").mkdir()
    (folder / "more" / "middle.yaml").write_text(
        "extends: ../base.yaml\ntrain: {clip: null}\nsources:\n- {path: c.tar}\n"
    )
    Path("leaf.yaml").write_text("extends: more/middle.yaml\ncodec: {type: vae, name: sd}\ntrain: {steps: 20}\n")
    recipe = load("leaf.yaml", STAGES)
    assert isinstance(recipe, Pretrain)
    assert recipe.codec == Vae(type="vae", name="sd")
    assert recipe.sources == (Source(path="c.tar"),)
    assert recipe.train == Train(steps=20, clip=None)


def test_overrides_come_last_and_in_order(folder):
    recipe = load("base.yaml", STAGES, ["train.steps=5", "train={steps: 6, clip: 2}", "sources.1.weight=3"])
    assert isinstance(recipe, Pretrain)
    assert recipe.train == Train(steps=6, clip=2.0)
    assert recipe.sources[1] == Source(path="b.tar", kind="conversation", weight=3.0)


def test_override_of_a_default_that_is_not_written(folder):
    recipe = load("base.yaml", STAGES, ["mesh.data=4"])
    assert isinstance(recipe, Pretrain)
    assert (recipe.mesh.data, recipe.mesh.fsdp) == (4, 1)


def test_every_problem_is_listed_with_its_file_and_line(folder):
    assert problems_of(
        """\
extends: base.yaml
codec:
  type: vae
  nam: q
sources:
- {path: p, weight: "1", knd: 3}
- {kind: captoin, path: 3}
train:
  stpes: 1
  image_size: no
  steps: -1
  resume: 1
train:
  q: 1
optim:
  dit: {betas: [0.9, x], lr: 1}
guide: {scale: 2}
mesh: {data: 4, fsdp: 4}
wholly_wrong: 1
"""
    ) == [
        "child.yaml:2: codec.name: required, and missing",
        "child.yaml:4: codec.nam: unknown key; did you mean 'name'?",
        "child.yaml:6: sources.0.weight: is '1', must be a number",
        "child.yaml:6: sources.0.knd: unknown key; did you mean 'kind'?",
        "child.yaml:7: sources.1.path: is 3, must be text",
        "child.yaml:7: sources.1.kind: is 'captoin', must be 'caption' or 'conversation'; did you mean 'caption'?",
        "child.yaml:9: train.stpes: unknown key; did you mean 'steps'?",
        "child.yaml:10: train.image_size: is 'no', must be a whole number or a list",
        "child.yaml:11: train.steps: is -1, must be greater than 0",
        "child.yaml:12: train.resume: is 1, must be true or false",
        "child.yaml:13: train: duplicate key (first on line 8)",
        "child.yaml:16: optim.dit.betas.1: is 'x', must be a number",
        "child.yaml:17: guide: needs a `type:`, one of rae, vae",
        "child.yaml:18: mesh: data x fsdp is 4 x 4 = 16, at most 8 are there",
        f"child.yaml:19: wholly_wrong: unknown key {KEYS}",
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("codec: {type: rea}", "child.yaml:2: codec: unknown type 'rea'; did you mean 'rae'? (valid: rae, vae)"),
        ("codec: {type: 3}", "child.yaml:2: codec: unknown type '3' (valid: rae, vae)"),
        ("codec: rae", "child.yaml:2: codec: is 'rae', must be a map"),
        ("codec:", "child.yaml:2: codec: is null, must be a map"),
        ("guide: {type: rae}", "child.yaml:2: guide.decoder: required, and missing"),
        ("guide: {type: vae, name: x, Name: y}", "child.yaml:2: guide.Name: unknown key; did you mean 'name'?"),
        ("train: {image_size: [1, x]}", "child.yaml:2: train.image_size.1: is 'x', must be a whole number"),
        ("train: {steps: 2.0}", "child.yaml:2: train.steps: is 2.0, must be a whole number"),
        ("train: {clip: .nan}", "child.yaml:2: train.clip: is nan, must be a finite number"),
        ("train: {clip: 1e999}", "child.yaml:2: train.clip: is inf, must be a finite number"),
        ("sources: {path: a}", "child.yaml:2: sources: is a map, must be a list"),
        ("optim: {llm: 3}", "child.yaml:2: optim.llm: is 3, must be a map"),
        ("stage: decodr", f"child.yaml:2: stage: unknown stage 'decodr'; did you mean 'decoder'? {STAGE_NAMES}"),
        ("stage: [1]", f"child.yaml:2: stage: unknown stage [1] {STAGE_NAMES}"),
        ("extend: x", f"child.yaml:2: extend: unknown key {KEYS}"),
    ],
)
def test_one_problem_is_one_line(folder, body, expected):
    assert problems_of(f"extends: base.yaml\n{body}\n") == [expected]


def test_a_problem_of_a_parent_is_reported_in_the_parents_file(folder):
    Path("base.yaml").write_text(BASE.replace("steps: 10", "steps: ten"))
    assert problems_of("extends: base.yaml\nnote: x\n") == [
        "base.yaml:12: train.steps: is 'ten', must be a whole number"
    ]


def test_a_problem_of_an_override_is_reported_as_the_option(folder):
    text = "extends: base.yaml\n"
    assert problems_of(text, "train.steps=x", "train.stps=1", "sources.9.path=a") == [
        "--set sources.9.path=a: sources: a list that has places 0 to 1; '9' is not one of them",
        "--set train.steps=x: train.steps: is 'x', must be a whole number",
        "--set train.stps=1: train.stps: unknown key; did you mean 'steps'?",
    ]
    assert problems_of(text, "train={steps") == [
        "--set train={steps: not valid YAML: while parsing a flow mapping; expected ',' or '}', but got '<stream end>'"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", f"child.yaml:1: stage: required, and missing {STAGE_NAMES}"),
        ("# only a comment\n", f"child.yaml:1: stage: required, and missing {STAGE_NAMES}"),
        ("- 1\n- 2\n", "child.yaml:1: a recipe is a map of keys (stage, run, data, ...)"),
        ("just text\n", "child.yaml:1: a recipe is a map of keys (stage, run, data, ...)"),
        ("train: {steps: 1}\n", f"child.yaml:1: stage: required, and missing {STAGE_NAMES}"),
        ("extends: [base.yaml]\nstage: decoder\ntrain: {steps: 1}", "child.yaml:1: extends: must name one recipe file"),
    ],
)
def test_a_file_that_is_no_recipe(folder, text, expected):
    assert problems_of(text) == [expected]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("bse.yaml", "no recipe bse.yaml; did you mean base.yaml?"),
        ("base", "no recipe base; did you mean base.yaml?"),
        ("zzzzzzzzzz", "no recipe zzzzzzzzzz (. holds base.yaml)"),
        ("nowhere/base.yaml", "no recipe nowhere/base.yaml (there is no folder nowhere)"),
        ("empty/a.yaml", "no recipe empty/a.yaml (empty holds no .yaml file)"),
        ("base.yaml/a.yaml", "no recipe base.yaml/a.yaml (there is no folder base.yaml)"),
        (".", ". is a directory, not a recipe (. holds base.yaml)"),
        ("latin", "latin is not UTF-8 text (byte 1)"),
    ],
)
def test_a_file_that_cannot_be_read(folder, path, expected):
    Path("empty").mkdir()
    Path("latin").write_bytes(b"a\xff")
    with pytest.raises(UserError) as caught:
        load(path, STAGES)
    assert str(caught.value) == expected


def test_a_missing_parent_names_who_asked_for_it(folder):
    assert problems_of("note: x\nextends: bsae.yaml\n") == [
        "child.yaml:2: extends: no recipe bsae.yaml; did you mean base.yaml?"
    ]


def test_parents_in_a_circle(folder):
    Path("other.yaml").write_text("extends: child.yaml\n")
    assert problems_of("extends: other.yaml\n") == [
        "other.yaml:1: extends: goes in a circle: child.yaml -> other.yaml -> child.yaml"
    ]
    assert problems_of("extends: child.yaml\n") == ["child.yaml:1: extends: goes in a circle: child.yaml -> child.yaml"]


def test_text_cannot_extend():
    with pytest.raises(UserError, match="only a recipe in a local file can extend another"):
        load_text("extends: base.yaml\nstage: decoder\n", STAGES)
