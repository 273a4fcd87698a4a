"""How often loops run."""

import pytest

from raexla.plan.hlo.text import HloError, parse
from raexla.plan.hlo.walk import walk


def program(start="0", limit="5", step="add(%i, %one)", config="", bound="%limit"):
    """A loop around a loop: the outer one runs twice and the inner counts `i`."""
    named = 'metadata={op_name="blocks"}'
    return f"""HloModule m, is_scheduled=true

%work (x: f32[2,2]) -> f32[2,2] {{
  %x = f32[2,2]{{1,0}} parameter(0)
  ROOT %d = f32[2,2]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

%inner_body (s: (s32[], f32[2,2])) -> (s32[], f32[2,2]) {{
  %s = (s32[], f32[2,2]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %next = s32[] {step}
  %v = f32[2,2]{{1,0}} get-tuple-element(%s), index=1
  %w = f32[2,2]{{1,0}} fusion(%v), kind=kOutput, calls=%work
  ROOT %t = (s32[], f32[2,2]{{1,0}}) tuple(%next, %w)
}}

%inner_condition (s: (s32[], f32[2,2])) -> pred[] {{
  %s = (s32[], f32[2,2]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %limit = s32[] constant({limit})
  ROOT %c = pred[] compare(%i, {bound}), direction=LT
}}

%body (s: (u32[], u32[], f32[2,2])) -> (u32[], u32[], f32[2,2]) {{
  %s = (u32[], u32[], f32[2,2]{{1,0}}) parameter(0)
  %low = u32[] get-tuple-element(%s), index=0
  %high = u32[] get-tuple-element(%s), index=1
  %one = u32[] constant(1)
  %more = u32[] add(%low, %one)
  %v = f32[2,2]{{1,0}} get-tuple-element(%s), index=2
  %start = s32[] constant({start})
  %state = (s32[], f32[2,2]{{1,0}}) tuple(%start, %v)
  %loop = (s32[], f32[2,2]{{1,0}}) while(%state), condition=%inner_condition, body=%inner_body{config}
  %w = f32[2,2]{{1,0}} get-tuple-element(%loop), index=1
  ROOT %t = (u32[], u32[], f32[2,2]{{1,0}}) tuple(%more, %high, %w)
}}

%below (p: u32[], q: u32[]) -> pred[] {{
  %p = u32[] parameter(0)
  %q = u32[] parameter(1)
  ROOT %c = pred[] compare(%p, %q), direction=LT
}}

%condition (s: (u32[], u32[], f32[2,2])) -> pred[] {{
  %s = (u32[], u32[], f32[2,2]{{1,0}}) parameter(0)
  %low = u32[] get-tuple-element(%s), index=0
  %high = u32[] get-tuple-element(%s), index=1
  %zero = u32[] constant(0)
  %two = u32[] constant(2)
  %signed = s32[] bitcast-convert(%high)
  %negative = s32[] constant(0)
  %under = pred[] compare(%signed, %negative), direction=LT
  %same = pred[] compare(%high, %zero), direction=EQ
  %less = pred[] fusion(%low, %two), kind=kLoop, calls=%below
  %both = pred[] and(%same, %less)
  ROOT %c = pred[] or(%under, %both)
}}

ENTRY %main (x: f32[2,2], n: s32[]) -> f32[2,2] {{
  %x = f32[2,2]{{1,0}} parameter(0)
  %n = s32[] parameter(1)
  %zero = u32[] constant(0)
  %state = (u32[], u32[], f32[2,2]{{1,0}}) tuple(%zero, %zero, %x)
  %outer = (u32[], u32[], f32[2,2]{{1,0}}) while(%state), condition=%condition, body=%body, {named}
  ROOT %r = f32[2,2]{{1,0}} get-tuple-element(%outer), index=2
}}
"""


@pytest.mark.parametrize(
    ("change", "trips"),
    [
        ({}, 5),
        ({"start": "3"}, 2),
        ({"start": "-2", "limit": "2"}, 4),
        ({"start": "9"}, 0),
        ({"step": "multiply(%i, %one)", "limit": "0"}, 0),
        ({"config": ', backend_config={"known_trip_count":{"n":"7"}}'}, 7),
    ],
)
def test_nested_loops_multiply(change, trips):
    found = walk(parse(program(**change)))
    assert found.times["body"] == 2
    assert found.times["inner_body"] == 2 * trips
    assert found.times["work"] == 2 * trips
    assert found.inside == ({"work", "below"} if trips else {"below"})
    assert [(loop.name, loop.trips, loop.times, loop.op_name) for loop in found.loops] == [
        ("outer", 2, 1, "blocks"),
        ("loop", trips, 2, ""),
    ]


def test_a_loop_whose_count_depends_on_data_is_named():
    text = program(step="s32[] custom-call(%i)".removeprefix("s32[] "))
    with pytest.raises(HloError, match=r"loop loop .*can't be told: it depends on custom-call next"):
        walk(parse(text))


def test_a_loop_that_never_ends_is_named(monkeypatch):
    monkeypatch.setattr("raexla.plan.hlo.walk.MOST_TURNS", 100)
    with pytest.raises(HloError, match="loop loop: more than 100 turns"):
        walk(parse(program(step="multiply(%i, %one)")))
