"""Mesh axes on the links of a slice, and the time of collectives there, against figures worked out by hand."""

import pytest

from raexla.plan.links import Sent, lay, seconds
from raexla.plan.slices import CHIPS, Slice
from raexla.recipe import UserError

V5P = Slice.parse("v5p:4x4x4")
LINK = CHIPS["v5p"].link_bandwidth


def test_axes_take_the_dims_from_the_last_on():
    found = lay(V5P, {"data": 4, "fsdp": 16, "tensor": 1})
    assert found["fsdp"].dims == ((4, True), (4, True))
    assert found["data"].dims == ((4, True),)
    assert found["tensor"].dims == ()
    assert (found["fsdp"].bandwidth, found["data"].bandwidth) == (4 * LINK, 2 * LINK)


def test_a_part_of_a_ring_is_an_open_line():
    found = lay(V5P, {"data": 4, "fsdp": 8, "tensor": 2})
    assert found["tensor"].dims == ((2, False),)
    assert found["fsdp"].dims == ((2, False), (4, True))
    assert found["fsdp"].bandwidth == 3 * LINK
    small = lay(Slice.parse("v6e:8x8"), {"data": 1, "fsdp": 64, "tensor": 1})["fsdp"]
    assert small.dims == ((8, False), (8, False))  # no ring below 16


def test_a_whole_slice_has_the_slices_own_bandwidths():
    whole = lay(V5P, {"data": 1, "fsdp": 64, "tensor": 1})["fsdp"]
    assert (whole.bandwidth, whole.bisection) == (V5P.ring_bandwidth, V5P.bisection_bandwidth)


def test_every_chip_lies_somewhere():
    for shape in ("v5p:4x4x8", "v5p:2x2x1", "v4:4x4x12", "v6e:4x8"):
        where = Slice.parse(shape)
        for fsdp in (n for n in range(1, where.chips + 1) if where.chips % n == 0):
            boxes = lay(where, {"data": where.chips // fsdp, "fsdp": fsdp, "tensor": 1})
            size = 1
            for box in boxes.values():
                for length, _ in box.dims:
                    size *= length
            assert size == where.chips


def test_collectives_take_their_bytes_over_their_links():
    mesh = {"data": 4, "fsdp": 16, "tensor": 1}
    gather, both = Sent("all-gather", "fsdp", 1e9, 16), Sent("all-reduce", "data+fsdp", 1e9, 64)
    assert seconds([gather], V5P, mesh, 1.0) == (pytest.approx(1e9 / (4 * LINK)), 0)
    assert seconds([gather, both], V5P, mesh, 0.5)[0] == pytest.approx(2 * (1e9 / (4 * LINK) + 1e9 / (6 * LINK)))
    # half of what each chip sends crosses the middle, from one of its sides
    swapped = seconds([Sent("all-to-all", "data+fsdp", 1e9, 64)], V5P, mesh, 1.0)[0]
    assert swapped == pytest.approx(1e9 * 64 / 4 / V5P.bisection_bandwidth)
    assert seconds([], V5P, mesh, 1.0) == (0, 0)


def test_copies_in_several_slices_add_up_over_the_network():
    where = Slice.parse("v5p:4x4x4", slices=2)
    mesh = {"data": 8, "fsdp": 16, "tensor": 1}
    array = 1e9
    whole = Sent("all-reduce", "data", 2 * array * 7 / 8, 8)
    inside, across = seconds([whole], where, mesh, 1.0)
    assert inside == pytest.approx(2 * array * 3 / 4 / (2 * LINK))  # 4 copies in each slice
    assert across == pytest.approx(2 * (array / 4) / 2 / where.chip.dcn_bandwidth)
    assert seconds([Sent("all-gather", "fsdp", 1e9, 16)], where, mesh, 1.0)[1] == 0


def test_other_axes_do_not_run_between_slices():
    with pytest.raises(UserError, match=r"mesh\.data 1 does not divide by --slices 2.*--set mesh\.data=2"):
        lay(Slice.parse("v5p:4x4x4", slices=2), {"data": 1, "fsdp": 128, "tensor": 1})
