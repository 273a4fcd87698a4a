"""YAML text -> tree with origins: the dialect, and what is refused."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raexla.recipe import UserError
from raexla.recipe.source import parse, write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e-3", -2.5e-3),
        (".5", 0.5),
        ("3.", 3.0),
        ("1_000_000", 1_000_000),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("-7", -7),
        ("+7", 7),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # text, where YAML 1.1 reads something else
        ("yes", "yes"),
        ("off", "off"),
        ("NO", "NO"),
        ("12:30", "12:30"),
        ("2026-11-22", "2026-11-22"),
        ("=", "="),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("0x", "0x"),
        ('"1e-4"', "1e-4"),
        ("'null'", "null"),
        ("!!str 3", "3"),
        ("!!float 3", 3.0),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    node, problems = parse(text, "x")
    assert problems == []
    assert node.value == value
    assert type(node.value) is type(value)


def test_nan():
    assert math.isnan(parse(".nan", "x")[0].value)


@settings(deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=12,
    )
)
def test_what_is_written_is_read_back(value):
    node, problems = parse(write(value), "x")
    assert problems == []
    assert node.plain() == value


def test_values_carry_the_line_of_their_key():
    node, _ = parse("a:\n  b:\n    3\n  c: [1,\n   2]\n", "f.yaml")
    inner = node.value["a"].value
    assert str(inner["b"].origin) == "f.yaml:2"
    assert [str(item.origin) for item in inner["c"].value] == ["f.yaml:4", "f.yaml:5"]


def test_aliases_are_copies():
    node, problems = parse("a: &x {lr: 1}\nb: *x\n", "f")
    assert problems == []
    assert node.plain() == {"a": {"lr": 1}, "b": {"lr": 1}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "f:2: b.c: duplicate key (first on line 2)"),
        ("a: 1\na: 2", "f:2: a: duplicate key (first on line 1)"),
        ("a: &x [*x]", "f:1: a.0: an alias that contains itself"),
        ("x: &x {}\ny:\n  <<: *x", "f:3: y: merge keys (<<) are not supported; use `extends:`"),
        ("? [1, 2]\n: 3", "f:1: a key must be text, not a list or a map"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "f:1: a: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed in a recipe",
        ),
        ("a: !mine 3", "f:1: a: the tag '!mine' is not allowed in a recipe"),
        ("a: !!binary aGk=", "f:1: a: the tag 'tag:yaml.org,2002:binary' is not allowed in a recipe"),
        ("a: !!int abc", "f:1: a: 'abc' is not a valid int"),
    ],
)
def test_refused_with_a_place(text, expected):
    _, problems = parse(text, "f")
    assert [str(problem) for problem in problems] == [expected]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: [1,\nb: 2", "f:2: not valid YAML: while parsing a flow sequence"),
        ("a: 1\n b: 2", "f:2: not valid YAML: mapping values are not allowed here"),
        ("a: *nowhere", "f:1: not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2", "f:2: not valid YAML: expected a single document"),
        ("a: \x07", "f: not valid YAML: unacceptable character"),
        ("[" * 5000, "f: too deep for a recipe"),
        ("[" * 60 + "]" * 60, "f:1: too large or too deep for a recipe"),
    ],
)
def test_not_yaml_is_one_line(text, start):
    with pytest.raises(UserError) as caught:
        parse(text, "f")
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


def test_an_alias_bomb_is_refused():
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    with pytest.raises(UserError, match="too large"):
        parse("\n".join(lines), "f")
