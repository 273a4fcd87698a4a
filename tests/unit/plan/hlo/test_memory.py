"""The fullest moment of a schedule, by hand. Every f32[256] here is 1 KiB."""

import pytest

from raexla.plan.hlo.memory import peak
from raexla.plan.hlo.text import HloError, parse
from raexla.plan.hlo.walk import walk

K = "f32[256]{0:T(256)}"
FUSED = f"""
%loop_fused (p: f32[256]) -> f32[256] {{
  %p = {K} parameter(0)
  ROOT %n = {K} negate(%p)
}}

%updated (p: f32[256], u: f32[8]) -> f32[256] {{
  %p = {K} parameter(0)
  %u = f32[8] parameter(1)
  %i = s32[] constant(0)
  %d = {K} dynamic-update-slice(%p, %u, %i)
  ROOT %b = {K} bitcast(%d)
}}
"""


def find(body, header="is_scheduled=true", extra=""):
    text = f"HloModule m, {header}\n{FUSED}{extra}\nENTRY %main (a: f32[256], u: f32[8]) -> f32[256] {{\n"
    text += f"  %a = {K} parameter(0)\n  %u = f32[8] parameter(1)\n" + body + "\n}\n"
    return peak(walk(parse(text)))


def names(found):
    return sorted(buffer.name for buffer in found.temporaries)


def test_arguments_and_vector_memory_are_not_counted_and_buffers_end_with_their_last_reader():
    found = find(f"""
  %x = {K} exponential(%a)
  %v = f32[256]{{0:T(256)S(1)}} copy(%a)
  %y = {K} exponential(%x)
  %z = {K} add(%y, %v)
  ROOT %r = {K} sine(%z)""")
    assert (found.at, found.bytes, names(found)) == ("y", 2048, ["x", "y"])


def test_an_elementwise_fusion_may_write_over_what_it_reads_last():
    found = find(f"""
  %x = {K} exponential(%a)
  %y = {K} fusion(%x), kind=kLoop, calls=%loop_fused
  ROOT %z = {K} fusion(%y), kind=kLoop, calls=%loop_fused""")
    assert found.bytes == 1024


def test_updates_views_and_donated_results_take_nothing():
    found = find(
        f"""
  %x = {K} exponential(%a)
  %y = {K} fusion(%x, %u), kind=kLoop, calls=%updated
  %z = {K} bitcast(%y)
  %t = ({K}, {K}) tuple(%z, %a)
  %g = {K} get-tuple-element(%t), index=0
  %e = {K} exponential(%g)
  ROOT %r = ({K}) tuple(%e)""",
        "is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }",
    )
    assert (found.bytes, names(found)) == (1024, ["x"])
    assert find(f"  %x = {K} exponential(%a)\n  ROOT %r = {K} fusion(%x, %u), kind=kLoop, calls=%updated").bytes == 1024


def test_what_the_compiler_says_is_written_over_takes_nothing():
    body = f"""
  %x = {K} exponential(%a)
  %w = {K} exponential(%x)
  %y = {K} fusion(%w), kind=kCustom, calls=%loop_fused, output_to_operand_aliasing={{{{}}: (0, {{}})}}
  ROOT %r = {K} add(%x, %y)"""
    assert find(body).bytes == 2 * 1024 + 1024 - 1024 + 1024  # x, w (then y in its place), r


def test_a_copy_in_flight_is_its_destination_only():
    found = find(f"""
  %s = ({K}, {K}, u32[]{{:S(2)}}) copy-start(%a)
  %d = {K} copy-done(%s)
  ROOT %r = {K} exponential(%d)""")
    assert (found.bytes, names(found)) == (2048, ["r", "s"])


BODY = f"""
%body (s: (s32[], f32[256])) -> (s32[], f32[256]) {{
  %s = (s32[], {K}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %next = s32[]{{:S(6)}} add(%i, %one)
  %v = {K} get-tuple-element(%s), index=1
  %p = {K} exponential(%v)
  %q = {K} add(%p, %v)
  %w = {K} add(%q, %p)
  ROOT %t = (s32[], {K}) tuple(%next, %w)
}}

%condition (s: (s32[], f32[256])) -> pred[] {{
  %s = (s32[], {K}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] constant(9)
  ROOT %c = pred[]{{:S(6)}} compare(%i, %n), direction=LT
}}
"""


def test_a_loop_adds_what_one_turn_makes_beside_its_state():
    found = find(
        f"""
  %x = {K} exponential(%a)
  %zero = s32[]{{:S(6)}} constant(0)
  %state = (s32[], {K}) tuple(%zero, %x)
  %loop = (s32[], {K}) while(%state), condition=%condition, body=%body
  ROOT %r = {K} get-tuple-element(%loop), index=1""",
        extra=BODY,
    )
    assert (found.at, found.bytes, names(found)) == ("q", 3 * 1024, ["p", "q", "x"])  # w stands in the state's place


def test_a_program_without_a_schedule_is_refused():
    with pytest.raises(HloError, match="isn't scheduled"):
        find(f"  ROOT %r = {K} sine(%a)", header="x=1")
