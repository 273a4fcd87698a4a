"""Hands out the programs of `tools/`, which are no part of the package."""

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def tools_are_importable(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3] / "tools"), *sys.path])
