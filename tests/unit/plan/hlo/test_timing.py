"""What an instruction reads, writes and multiplies, counted by hand."""

import pytest

from raexla.plan.hlo.text import parse
from raexla.plan.hlo.timing import Timed, program_seconds, timed
from raexla.plan.hlo.walk import walk

LOOP = """HloModule m, is_scheduled=true

%body (s: (s32[], f32[10,64,128], f32[64,128])) -> (s32[], f32[10,64,128], f32[64,128]) {
  %s = (s32[], f32[10,64,128], f32[64,128]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %all = f32[10,64,128]{2,1,0} get-tuple-element(%s), index=1
  %x = f32[64,128]{1,0} get-tuple-element(%s), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %f = (f32[10,64,128]{2,1,0}, f32[64,128]{1,0}) fusion(%all, %x, %i), kind=kLoop, calls=%inner
  %new = f32[10,64,128]{2,1,0} get-tuple-element(%f), index=0
  %y = f32[64,128]{1,0} get-tuple-element(%f), index=1
  ROOT %t = (s32[], f32[10,64,128], f32[64,128]) tuple(%next, %new, %y)
}

%inner (p0: f32[10,64,128], p1: f32[64,128], p2: s32[]) -> (f32[10,64,128], f32[64,128]) {
  %p0 = f32[10,64,128]{2,1,0} parameter(0)
  %p1 = f32[64,128]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %z = s32[] constant(0)
  %slice = f32[1,64,128]{2,1,0} dynamic-slice(%p0, %p2, %z, %z), dynamic_slice_sizes={1,64,128}
  %flat = f32[64,128]{1,0} bitcast(%slice)
  %sum = f32[64,128]{1,0} add(%flat, %p1)
  %up = f32[1,64,128]{2,1,0} bitcast(%sum)
  %put = f32[10,64,128]{2,1,0} dynamic-update-slice(%p0, %up, %p2, %z, %z)
  ROOT %r = (f32[10,64,128]{2,1,0}, f32[64,128]{1,0}) tuple(%put, %sum)
}

%condition (s: (s32[], f32[10,64,128], f32[64,128])) -> pred[] {
  %s = (s32[], f32[10,64,128], f32[64,128]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %ten = s32[] constant(10)
  ROOT %less = pred[] compare(%i, %ten), direction=LT
}

ENTRY %main (a: f32[10,64,128], b: f32[64,128]) -> f32[64,128] {
  %a = f32[10,64,128]{2,1,0} parameter(0)
  %b = f32[64,128]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %init = (s32[], f32[10,64,128], f32[64,128]) tuple(%zero, %a, %b)
  %w = (s32[], f32[10,64,128], f32[64,128]) while(%init), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"10"}}
  ROOT %last = f32[64,128]{1,0} get-tuple-element(%w), index=2
}
"""


def test_of_a_stack_a_loop_touches_one_slice():
    (found,) = [t for t in timed(walk(parse(LOOP))) if t.name == "f"]
    slice_bytes = 64 * 128 * 4
    assert found.times == 10
    read = slice_bytes + slice_bytes + 4  # of the stack, of x, the index
    written = slice_bytes + slice_bytes  # into the stack, y
    assert found.bytes == 10 * (read + written)


def test_what_stands_on_the_die_takes_no_bandwidth():
    text = """HloModule m, is_scheduled=true

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %near = f32[8,128]{1,0:T(8,128)S(1)} negate(%a)
  ROOT %far = f32[8,128]{1,0:T(8,128)} negate(%near)
}
"""
    near, far = timed(walk(parse(text)))
    assert near.bytes == 8 * 128 * 4
    assert far.bytes == 8 * 128 * 4


def test_a_product_takes_what_takes_longer():
    text = """HloModule m, is_scheduled=true

ENTRY %main (a: f32[512,512], b: f32[512,512]) -> f32[512,512] {
  %a = f32[512,512]{1,0} parameter(0)
  %b = f32[512,512]{1,0} parameter(1)
  ROOT %p = f32[512,512]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
    (product,) = timed(walk(parse(text)))
    assert product.flops == 2 * 512**3
    assert product.bytes == 3 * 512 * 512 * 4
    assert product.seconds(1e9, 1e12) == pytest.approx(2 * 512**3 / 1e9)
    assert product.seconds(1e15, 1e6) == pytest.approx(3 * 512 * 512 * 4 / 1e6)


def test_a_kernel_does_what_it_declares():
    text = """HloModule m, is_scheduled=true

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  ROOT %k = f32[8,128]{1,0} custom-call(%a), custom_call_target="tpu_custom_call"
}
"""
    (found,) = timed(walk(parse(text)), {"k": 1000.0})
    assert found.flops == 1000.0


def test_a_transfer_to_the_die_runs_beside_the_rest():
    text = """HloModule m, is_scheduled=true

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %s = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]) copy-start(%a)
  %d = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%s)
  ROOT %far = f32[8,128]{1,0:T(8,128)} negate(%d)
}
"""
    start, far = timed(walk(parse(text)))
    assert start.beside
    assert start.bytes == 8 * 128 * 4
    assert not far.beside
    assert far.bytes == 8 * 128 * 4


def test_a_step_takes_its_instructions_in_turn_or_all_its_bytes():
    product = Timed("p", "", 1, flops=100.0, bytes=10.0, op_name="")
    beside = Timed("c", "", 1, flops=0.0, bytes=50.0, op_name="", beside=True)
    assert program_seconds([product, beside], 10.0, 10.0) == 10.0
    assert program_seconds([product, beside], 1000.0, 10.0) == 6.0


def test_a_collective_beside_a_fusion_takes_links_and_no_bandwidth():
    text = """HloModule m, is_scheduled=true

%inner (p0: f32[8,128], p1: f32[64,128]) -> (f32[8,128], f32[8,128], f32[64,128], f32[64,128], s32[2], u32[]) {
  %p0 = f32[8,128]{1,0} parameter(0)
  %p1 = f32[64,128]{1,0} parameter(1)
  %n = f32[8,128]{1,0} negate(%p0)
  %i = s32[2]{0} iota(), iota_dimension=0
  %u = u32[] constant(0)
  ROOT %r = (f32[8,128]{1,0}, f32[8,128]{1,0}, f32[64,128]{1,0}, f32[64,128]{1,0}, s32[2]{0}, u32[]) \
tuple(%n, %n, %p1, %p1, %i, %u)
}

ENTRY %main (a: f32[8,128], b: f32[64,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %b = f32[64,128]{1,0} parameter(1)
  %f = (f32[8,128]{1,0}, f32[8,128]{1,0}, f32[64,128]{1,0}, f32[64,128]{1,0}, s32[2]{0}, u32[]) \
fusion(%a, %b), kind=kLoop, calls=%inner
  ROOT %g = f32[8,128]{1,0} get-tuple-element(%f), index=0
}
"""
    (found,) = timed(walk(parse(text)))
    assert found.bytes == 8 * 128 * 4  # what it writes; its operand has the shard's shape and counts as the shard
