"""`tools/parity.py` on fixtures of other sizes and of kinds without a public one, made by independent plain formulas.

What breaks a convention must fail: the same fixture with one mistake in the formulas exits with 1.
"""

import pytest

from tests.parity.plain_cases import CASES

MISTAKES = [
    ("lightningdit", "interval not inverted"),
    ("lightningdit", "swapped rows and columns"),
    ("lightningdit", "eps"),
    ("upsample latent 4 to 7", "gelu tanh"),
    ("upsample latent 4 to 7", "eps"),
    ("upsample latent 4 to 7", "swapped rows and columns"),
    ("upsample latent 4 to 7", "align corners"),
    ("upsample patch 32", "gelu tanh"),
    ("upsample patch 32", "channel first"),
    ("webssl", "gelu tanh"),
    ("webssl", "eps"),
    ("webssl", "swapped rows and columns"),
    ("webssl", "no affine"),
    ("sampler", "no stray step"),
    ("sampler", "starts at noise"),
    ("ddt wide", "swapped rows and columns"),
]


@pytest.mark.parametrize("name", CASES)
def test_passes(tool, name, tmp_path, capsys):
    made = CASES[name]()
    assert tool.main([made.write(tmp_path)]) == 0
    printed = capsys.readouterr().out
    compared = [key for key in made.tensors if key.startswith(("output/", "grad/", "derived/"))]
    assert printed.count("  ok\n") == len(compared)
    assert "note:" not in printed


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_broken_convention_fails(tool, name, mistake, tmp_path, capsys):
    assert tool.main([CASES[name](mistake=mistake).write(tmp_path)]) == 1
    assert "FAIL" in capsys.readouterr().out
