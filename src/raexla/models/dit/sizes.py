"""The papers' sizes by name."""

from typing import Literal, NamedTuple

SizeName = Literal["0.5B", "2.4B", "3.3B", "5.5B", "9.8B", "S", "B", "L", "XL", "XXL", "H", "G", "T"]


class Size(NamedTuple):
    """Width, depth and heads of a backbone or head."""

    width: int
    depth: int
    heads: int


SIZES: dict[SizeName, Size] = {
    # paper 000, Table 10. "3.3B" has 3.08e9 parameters; the paper's own section 3.3 says 3.1B.
    "0.5B": Size(1280, 16, 32),
    "2.4B": Size(2048, 32, 32),
    "3.3B": Size(2304, 32, 32),
    "5.5B": Size(3072, 32, 32),
    "9.8B": Size(4096, 32, 32),
    # paper 001, Table 13
    "S": Size(384, 12, 6),
    "B": Size(768, 12, 12),
    "L": Size(1024, 24, 16),
    "XL": Size(1152, 28, 16),
    "XXL": Size(1280, 32, 16),
    "H": Size(1536, 32, 16),
    "G": Size(2048, 40, 16),
    "T": Size(2688, 40, 21),
}

HEADS_OF_WIDTH: dict[int, int] = {
    SIZES[name].width: SIZES[name].heads for name in ("S", "B", "L", "XL", "XXL", "H", "G", "T")
}
"""Attention heads by width in paper 001, whose DDT heads (Tables 15 and 16) take the widths of Table 13."""

WIDE_HEAD = Size(2048, 2, 16)
"""The DDT head of paper 001 (DiT-DH)."""

WIDE_HEAD_2688 = Size(2688, 2, 21)
"""The DDT head of paper 000, sec. 5."""
