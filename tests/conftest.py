"""Fixtures for all tests."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _module(name: str) -> Any:
    """A module that stands beside this file."""
    spec = importlib.util.spec_from_file_location(f"raexla_tests_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def in_process() -> Callable[..., Any]:
    """`in_process(function, *arguments)`: run a function of this file in a fresh process (see harness.py)."""
    return _module("harness").in_process


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The module `tiny.py`: makers of small folders in the real formats."""
    return _module("tiny")


@pytest.fixture(scope="session")
def tiny_world(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a tiny encoder, language model and shards, made once."""
    return tiny.world(tmp_path_factory.mktemp("tiny"))
