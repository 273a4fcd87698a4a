"""extends and --set as operations on trees."""

import pytest

from raexla.recipe import UserError
from raexla.recipe.merge import apply_set, merge
from raexla.recipe.source import parse


def tree(text):
    return parse(text, "f")[0]


@pytest.mark.parametrize(
    ("parent", "child", "merged"),
    [
        ("{a: 1, b: {c: 2, d: 3}}", "{b: {c: 9}, e: 4}", {"a": 1, "b": {"c": 9, "d": 3}, "e": 4}),
        ("{a: [1, 2, 3]}", "{a: [4]}", {"a": [4]}),
        ("{a: {b: 1}}", "{a: null}", {"a": None}),
        ("{a: null}", "{a: {b: 1}}", {"a": {"b": 1}}),
        ("{a: 3}", "{a: {b: 1}}", {"a": {"b": 1}}),
        ("{a: {type: x, k: 1}}", "{a: {type: y}}", {"a": {"type": "y"}}),
        ("{a: {type: x, k: 1}}", "{a: {type: x, l: 2}}", {"a": {"type": "x", "k": 1, "l": 2}}),
        ("{a: {type: x, k: 1}}", "{a: {l: 2}}", {"a": {"type": "x", "k": 1, "l": 2}}),
        ("{a: {k: 1}}", "{a: {type: y}}", {"a": {"k": 1, "type": "y"}}),
        ("{a: {type: x, k: {type: p, m: 1}}}", "{a: {k: {type: q}}}", {"a": {"type": "x", "k": {"type": "q"}}}),
        ("{a: 1}", "{}", {"a": 1}),
    ],
)
def test_merge(parent, child, merged):
    assert merge(tree(parent), tree(child)).plain() == merged


def test_merge_keeps_the_order_of_the_parent_and_both_origins():
    merged = merge(parse("b: 1\na: 2\n", "p")[0], parse("\n\na: 3\nc: 4\n", "c")[0])
    assert list(merged.value) == ["b", "a", "c"]
    assert [str(node.origin) for node in merged.value.values()] == ["p:1", "c:3", "c:4"]


@pytest.mark.parametrize(
    ("option", "result"),
    [
        ("a.b=2", {"a": {"b": 2, "t": [{"p": 1}]}}),
        ("a.b=1e-4", {"a": {"b": 1e-4, "t": [{"p": 1}]}}),
        ("a.b=x=y", {"a": {"b": "x=y", "t": [{"p": 1}]}}),
        ("a.b=[1, 2]", {"a": {"b": [1, 2], "t": [{"p": 1}]}}),
        ("a.b=", {"a": {"b": None, "t": [{"p": 1}]}}),
        ("a.t.0.p=5", {"a": {"b": 1, "t": [{"p": 5}]}}),
        ("a.t=[]", {"a": {"b": 1, "t": []}}),
        ("n.m.k=3", {"a": {"b": 1, "t": [{"p": 1}]}, "n": {"m": {"k": 3}}}),
        ("a={b: 7}", {"a": {"b": 7, "t": [{"p": 1}]}}),
    ],
)
def test_set(option, result):
    changed, problems = apply_set(tree("{a: {b: 1, t: [{p: 1}]}}"), option)
    assert problems == []
    assert changed.plain() == result


def test_setting_a_type_drops_the_other_keys():
    changed, _ = apply_set(tree("{c: {type: rae, scale: 2, e: {type: p, q: 1}}}"), "c.type=vae")
    assert changed.plain() == {"c": {"type": "vae"}}
    changed, _ = apply_set(tree("{c: {type: rae, scale: 2, e: {type: p, q: 1}}}"), "c.e.type=z")
    assert changed.plain() == {"c": {"type": "rae", "scale": 2, "e": {"type": "z"}}}
    changed, _ = apply_set(tree("{c: [{type: rae, scale: 2}]}"), "c.0.type=z")
    assert changed.plain() == {"c": [{"type": "z"}]}


def test_set_does_not_change_the_tree_it_was_given():
    before = tree("{a: {b: [1, 2]}}")
    apply_set(before, "a.b.0=9")
    assert before.plain() == {"a": {"b": [1, 2]}}


@pytest.mark.parametrize("option", ["a", "=3", "a..b=3", ".a=1", ""])
def test_an_option_must_be_path_and_value(option):
    with pytest.raises(UserError, match=r"write it as path\.to\.key=value"):
        apply_set(tree("{}"), option)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("a.t.3.p=1", "--set a.t.3.p=1: a.t: a list that has places 0 to 0; '3' is not one of them"),
        ("a.t.x=1", "--set a.t.x=1: a.t: a list that has places 0 to 0; 'x' is not one of them"),
        ("a.e.0=1", "--set a.e.0=1: a.e: a list that is empty; '0' is not one of them"),
        ("a.b.c=1", "--set a.b.c=1: a.b: is 1 (from f:1) and has no keys to set"),
        ("a.b={x: 1, x: 2}", "--set a.b={x: 1, x: 2}: x: duplicate key"),
    ],
)
def test_an_option_that_leads_nowhere(option, expected):
    before = tree("{a: {b: 1, e: [], t: [{p: 1}]}}")
    after, problems = apply_set(before, option)
    assert [str(problem) for problem in problems] == [expected]
    assert after.plain() == before.plain()
