"""Bytes on the links, by hand."""

import pytest

from raexla.plan.hlo.collectives import axes_of, collectives, parse_groups
from raexla.plan.hlo.text import HloError, parse
from raexla.plan.hlo.walk import walk

MESH = {"data": 2, "fsdp": 4}
FSDP = "{{0,1,2,3},{4,5,6,7}}"


def found(body, extra=""):
    text = f"HloModule m, is_scheduled=true, num_partitions=8\n{extra}\nENTRY %main (a: f32[8,16]) -> f32[] {{\n"
    text += "  %a = f32[8,16]{1,0} parameter(0)\n" + body + "\n}\n"
    return list(collectives(walk(parse(text)), 8, MESH))


@pytest.mark.parametrize(
    ("line", "kind", "axis", "size", "sent"),
    [
        # an operand is 8 x 16 x 4 = 512 bytes
        (f"f32[32,16] all-gather(%a), replica_groups={FSDP}, dimensions={{0}}", "all-gather", "fsdp", 4, 1536),
        (f"f32[8,16] all-reduce(%a), replica_groups={FSDP}, to_apply=%add", "all-reduce", "fsdp", 4, 768),
        (f"f32[2,16] reduce-scatter(%a), replica_groups={FSDP}, to_apply=%add", "reduce-scatter", "fsdp", 4, 384),
        ("f32[8,16] all-to-all(%a), replica_groups=[4,2]<=[2,4]T(1,0)", "all-to-all", "data", 2, 256),
        ("f32[8,16] all-reduce(%a), replica_groups=[1,8]<=[8], to_apply=%add", "all-reduce", "data+fsdp", 8, 896),
        ("f32[8,16] all-reduce(%a), replica_groups={}, to_apply=%add", "all-reduce", "data+fsdp", 8, 896),
        (
            "f32[8,16] all-reduce(%a), replica_groups={{0,5},{1,4},{2,7},{3,6}}, to_apply=%add",
            "all-reduce",
            "?",
            2,
            512,
        ),
        (
            "(f32[8,16], f32[8,16]) collective-permute-start(%a), source_target_pairs={{0,1},{1,2},{4,5}}",
            "collective-permute",
            "fsdp",
            2,
            512,
        ),
        ("f32[8,16] collective-permute(%a), source_target_pairs={{0,4}}", "collective-permute", "data", 2, 512),
        ("f32[8,16] collective-permute(%a), source_target_pairs={{0,5}}", "collective-permute", "data+fsdp", 2, 512),
    ],
)
def test_a_chip_sends_what_a_ring_sends(line, kind, axis, size, sent):
    (one,) = found(f"  ROOT %c = {line}")
    assert (one.kind, one.axis, one.group_size, one.sent_bytes) == (kind, axis, size, sent)
    assert one.total == sent
    assert one.hidden == ("-start" in line)


def test_groups_of_one_send_nothing():
    assert found("  ROOT %c = f32[8,16] all-reduce(%a), replica_groups=[8,1]<=[8], to_apply=%add") == []


SCATTER = f"""
%scattered (p: f32[8,16], i: s32[]) -> f32[2,16] {{
  %p = f32[8,16] parameter(0)
  %r = f32[8,16] all-reduce(%p), replica_groups={FSDP}, to_apply=%add
  %b = f32[8,16] bitcast(%r)
  %i = s32[] parameter(1)
  ROOT %s = f32[SIZE,16] dynamic-slice(%b, %i, %i), dynamic_slice_sizes={{2,16}}
}}
"""


@pytest.mark.parametrize(("size", "kind", "sent"), [("2", "reduce-scatter", 384), ("4", "all-reduce", 768)])
def test_an_all_reduce_of_which_each_keeps_its_piece_is_a_reduce_scatter(size, kind, sent):
    body = "  %i = s32[] constant(0)\n  ROOT %f = f32[2,16] fusion(%a, %i), kind=kCustom, calls=%scattered"
    (one,) = found(body, SCATTER.replace("SIZE", size))
    assert (one.kind, one.sent_bytes) == (kind, sent)


FLIGHT = """
%start (p: f32[8,16]) -> (f32[8,16], f32[32,16]) {
  %p = f32[8,16] parameter(0)
  %g = f32[32,16] all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %s = (f32[8,16], f32[32,16]) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%done (p: f32[8,16], q: f32[32,16]) -> f32[32,16] {
  %p = f32[8,16] parameter(0)
  %q = f32[32,16] parameter(1)
  %g = f32[32,16] all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %s = f32[32,16] custom-call(%p, %q, %g), custom_call_target="AsyncCollectiveDone"
}
"""


def test_one_in_flight_counts_once():
    body = """  %s = (f32[8,16], f32[32,16]) fusion(%a), kind=kCustom, calls=%start
  %x = f32[8,16] get-tuple-element(%s), index=0
  %y = f32[32,16] get-tuple-element(%s), index=1
  ROOT %d = f32[32,16] fusion(%x, %y), kind=kCustom, calls=%done"""
    (one,) = found(body, FLIGHT)
    assert (one.kind, one.axis, one.sent_bytes, one.hidden) == ("all-gather", "fsdp", 1536, True)


def test_groups_are_lists_or_iotas():
    assert parse_groups("[2,2]<=[4]", 4) == ((0, 1), (2, 3))
    assert parse_groups("[2,2]<=[2,2]T(1,0)", 4) == ((0, 2), (1, 3))
    assert parse_groups("[4,4]<=[2,2,4]T(1,0,2)", 16)[1] == (8, 9, 10, 11)
    assert parse_groups("{{0,2},{1,3}}", 4) == ((0, 2), (1, 3))
    with pytest.raises(HloError, match="replica_groups"):
        parse_groups("@mesh", 4)


def test_axes_are_named_in_every_combination():
    names = axes_of({"data": 2, "fsdp": 2, "tensor": 2, "none": 1})
    assert len(names) == 7
    assert names[frozenset({frozenset({0, 1, 4, 5}), frozenset({2, 3, 6, 7})})] == "data+tensor"
    assert names[frozenset(frozenset({n, n + 2}) for n in (0, 1, 4, 5))] == "fsdp"
