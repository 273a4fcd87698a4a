"""TPU slices as the command line names them."""

import math

import pytest

from raexla.plan.slices import CHIPS, Slice
from raexla.recipe import UserError


def test_a_slice_has_its_chips_and_peaks():
    flagship = Slice.parse("v5p:4x4x4")
    assert (flagship.chips, flagship.name) == (64, "v5p:4x4x4")
    assert flagship.peak_flops == 64 * 459e12
    twice = Slice.parse("v6e:8x8", slices=2)
    assert (twice.chips, twice.chips_in_slice, twice.name) == (128, 64, "2 x v6e:8x8")


def test_links_that_close_to_rings_count_twice():
    link = CHIPS["v5p"].link_bandwidth
    assert Slice.parse("v5p:4x4x4").ring_bandwidth == 6 * link
    assert Slice.parse("v5p:2x2x1").ring_bandwidth == 2 * link
    assert Slice.parse("v5p:4x4x4").bisection_bandwidth == 16 * 2 * link
    assert Slice.parse("v6e:8x8").bisection_bandwidth == 8 * CHIPS["v6e"].link_bandwidth  # no ring below 16
    assert math.isinf(Slice.parse("v5e:1x1").bisection_bandwidth)


@pytest.mark.parametrize(
    ("topology", "said"),
    [("v5p", "v5p:4x4x4"), ("v9:2x2", "v4, v5e, v5p, v6e"), ("v5p:4x4", "3 dimensions"), ("v6e:8x0", "dimensions")],
)
def test_other_forms_are_refused(topology, said):
    with pytest.raises(UserError, match="--topology") as refused:
        Slice.parse(topology)
    assert said in str(refused.value)
