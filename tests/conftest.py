"""Fixtures for all tests."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def in_process() -> Callable[..., Any]:
    """`in_process(function, *arguments)`: run a function of this file in a fresh process (see harness.py)."""
    spec = importlib.util.spec_from_file_location("raexla_test_harness", Path(__file__).with_name("harness.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.in_process
