"""Objects -> text, schema, hash, difference."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from raexla.recipe import differences, digest, load_text, schema, show
from tests.unit.recipe.toy import BASE, STAGES, Adam, Decoder, Pretrain, Rae, Source, Train, Vae

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-300, allow_infinity=False)
text = st.text(max_size=30)
codecs = st.builds(Vae, type=st.just("vae"), name=text) | st.builds(
    Rae, type=st.just("rae"), decoder=st.sampled_from([Path("a b/c"), Path("1e-4"), Path("null")]), scale=finite
)
recipes = st.builds(
    Pretrain,
    stage=st.just("pretrain"),
    codec=codecs,
    guide=st.none() | codecs,
    sources=st.lists(st.builds(Source, path=text, weight=positive), max_size=2).map(tuple),
    optim=st.dictionaries(text, st.builds(Adam, lr=finite, betas=st.tuples(finite, finite)), max_size=2),
    train=st.builds(
        Train,
        steps=st.integers(min_value=1),
        image_size=st.integers() | st.tuples(st.integers(), st.integers()),
        clip=st.none() | finite,
    ),
    note=text | st.sampled_from(["1e-4", "null", "true", "~", "0x1F", "- a", "a: b", "#", "\t", "é\u2028\U0001f600"]),
)


@settings(deadline=None, derandomize=True)
@given(recipes)
def test_what_is_shown_loads_back(recipe):
    assert load_text(show(recipe), STAGES) == recipe


def test_show_writes_defaults_in_the_order_of_the_fields():
    assert show(load_text("{stage: decoder, train: {steps: 3}}", STAGES)) == (
        "stage: decoder\ntrain:\n  steps: 3\n  image_size: 32\n  clip: 1.0\n  resume: true\n"
    )


def test_the_digest_knows_content_not_writing():
    one = load_text(BASE, STAGES)
    same = load_text(show(one), STAGES)
    other = load_text(BASE, STAGES, ["train.steps=11"])
    assert digest(one) == digest(same) != digest(other)
    assert len(digest(one)) == 64


def test_differences_name_dotted_paths():
    one = load_text(BASE, STAGES)
    assert differences(one, load_text(BASE, STAGES)) == []
    changes = ["train.steps=11", "sources.0.path=z", "optim.dit={lr: 1}", "codec={type: vae, name: sd}"]
    assert differences(one, load_text(BASE, STAGES, changes)) == [
        "codec.type",
        "codec.name",
        "codec.decoder",
        "codec.scale",
        "sources.0.path",
        "optim.dit",
        "train.steps",
    ]
    assert differences(one, load_text(BASE, STAGES, ["sources=[]"])) == ["sources"]
    assert differences(one, Decoder(stage="decoder", train=Train(steps=10)))[0] == "stage"


def test_the_schema_covers_every_stage_and_requires_nothing():
    result = schema(STAGES)
    arms = [result["$defs"][arm["$ref"].rsplit("/", 1)[-1]] for arm in result["anyOf"]]
    assert [arm["properties"]["stage"]["const"] for arm in arms] == ["pretrain", "decoder"]
    assert all(arm["additionalProperties"] is False and "extends" in arm["properties"] for arm in arms)
    assert "required" not in str(result)
    assert result["$defs"]["Train"]["properties"]["steps"]["description"] == "Optimiser steps."
    assert [arm["$ref"] for arm in arms[0]["properties"]["codec"]["anyOf"]] == ["#/$defs/Rae", "#/$defs/Vae"]
