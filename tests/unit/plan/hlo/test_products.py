"""FLOPs of matrix products, counted by hand."""

import numpy as np
import pytest

from raexla.plan.hlo.products import products
from raexla.plan.hlo.text import parse
from raexla.plan.hlo.walk import walk


def flops(left, right, result, operation):
    text = f"""HloModule m, is_scheduled=true

ENTRY %main (a: {left}, b: {right}) -> {result} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %p = {result} {operation}, metadata={{op_name="mm" source_file="x.py" source_line=3}}
}}
"""
    (found,) = products(walk(parse(text)))
    assert (found.op_name, found.source) == ("mm", "x.py:3")
    return found.flops


def conv(rest):
    return f"convolution(%a, %b), {rest}"


@pytest.mark.parametrize(
    ("left", "right", "result", "operation", "multiplications"),
    [
        (
            "f32[8,3,5]",
            "f32[8,5,7]",
            "f32[8,3,7]",
            "dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}",
            8 * 3 * 5 * 7,
        ),
        ("f32[4,6]", "f32[6,9]", "f32[4,9]", conv("dim_labels=bf_io->bf"), 4 * 6 * 9),
        # a linear layer as the TPU compiler writes it
        (
            "bf16[24,16,40]",
            "f32[960,40,1]",
            "f32[24,16,960]",
            conv("window={size=1}, dim_labels=0bf_oi0->0bf"),
            24 * 16 * 40 * 960,
        ),
        # batched attention scores: 96 products, as a window of 96 over an input with holes
        (
            "f32[96,16,40]",
            "f32[96,40,16]",
            "f32[96,16,16]",
            conv("window={size=96 stride=95 lhs_dilate=96}, dim_labels=0bf_0io->0bf"),
            96 * 16 * 40 * 16,
        ),
        # patches of 8 x 8
        (
            "f32[3,3,32,32]",
            "f32[48,3,8,8]",
            "f32[3,48,4,4]",
            conv("window={size=8x8 stride=8x8}, dim_labels=bf01_oi01->bf01"),
            3 * 48 * 16 * 3 * 64,
        ),
        # the same padded by one: 3 x 3 over 4 x 4 meets 10 x 10 places instead of 12 x 12
        (
            "f32[1,2,4,4]",
            "f32[5,2,3,3]",
            "f32[1,5,4,4]",
            conv("window={size=3x3 pad=1_1x1_1}, dim_labels=bf01_oi01->bf01"),
            5 * 2 * 10 * 10,
        ),
        (
            "f32[1,8,6,6]",
            "f32[8,1,3,3]",
            "f32[1,8,4,4]",
            conv("window={size=3x3}, dim_labels=bf01_oi01->bf01, feature_group_count=8"),
            8 * 16 * 9,
        ),
        (
            "f32[6,2,9]",
            "f32[4,2,3]",
            "f32[2,4,7]",
            conv("window={size=3}, dim_labels=bf0_oi0->bf0, batch_group_count=3"),
            2 * 4 * 2 * 7 * 3,
        ),
        # heads contracted pairwise (window over heads, padded): 4 outputs x 1 that meets data each
        (
            "f32[12,4,8,64]",
            "f32[4,32,64,1]",
            "f32[12,1,32,8]",
            conv("window={size=4x1}, dim_labels=b01f_0oi1->b0f1"),
            12 * 8 * 32 * 4 * 64,
        ),
    ],
)
def test_a_product_counts_what_meets_data(left, right, result, operation, multiplications):
    assert flops(left, right, result, operation) == 2 * multiplications


@pytest.mark.parametrize("seed", range(20))
def test_windows_count_as_a_walk_over_every_position_does(seed):
    rng = np.random.default_rng(seed)
    size, kernel, stride, pad, dilate, holes = (int(rng.integers(low, high)) for low, high in _RANGES)
    out = (((size - 1) * dilate + 1) + 2 * pad - ((kernel - 1) * holes + 1)) // stride + 1
    if out < 1:
        out, pad = 1, pad + kernel * holes
        out = (((size - 1) * dilate + 1) + 2 * pad - ((kernel - 1) * holes + 1)) // stride + 1
    met = 0
    for position in range(out):
        for tap in range(kernel):
            place = position * stride + tap * holes - pad
            met += 0 <= place <= (size - 1) * dilate and place % dilate == 0
    window = f"window={{size={kernel} stride={stride} pad={pad}_{pad} lhs_dilate={dilate} rhs_dilate={holes}}}"
    counted = flops(
        f"f32[2,3,{size}]", f"f32[5,3,{kernel}]", f"f32[2,5,{out}]", conv(f"{window}, dim_labels=bf0_oi0->bf0")
    )
    assert counted == 2 * 2 * 3 * 5 * met


_RANGES = ((1, 9), (1, 5), (1, 4), (0, 4), (1, 4), (1, 3))


def test_a_source_line_of_a_scan_is_not_believed():
    said = 'op_name="xla__scan/call.3/aten__mm" source_file="adam.py" source_line=953'
    text = f"""HloModule m, is_scheduled=true

ENTRY %main (a: f32[2,2]) -> f32[2,2] {{
  %a = f32[2,2] parameter(0)
  ROOT %p = f32[2,2] dot(%a, %a), lhs_contracting_dims={{1}}, metadata={{{said}}}
}}
"""
    (found,) = products(walk(parse(text)))
    assert found.source == ""
