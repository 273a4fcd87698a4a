"""The pinned requirement files fit pyproject.toml, carry hashes, and name no package index."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = sorted((ROOT / "requirements").glob("*-py3*.txt"))


def wanted(extra: str, python: str) -> list[Requirement]:
    """What an extra asks for on that Python, the project's own extras opened, markers applied."""
    found = []
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            found.extend(r for name in requirement.extras for r in wanted(name, python))
        elif requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            found.append(requirement)
    return found


def test_there_are_files_for_every_back_end_and_python():
    both, old = {"py311", "py312", "py313"}, {"py311", "py312"}
    expected = {"xla": both, "cuda": both, "tpu": old, "plan": old}
    assert {path.stem for path in FILES} == {f"{end}-{version}" for end, all_ in expected.items() for version in all_}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_pins_fit_the_project(path):
    text = path.read_text()
    pins = {
        canonicalize_name(name): Version(version) for name, version in re.findall(r"^([\w.-]+)==(\S+) \\$", text, re.M)
    }
    back_end, _, version = path.stem.partition("-py3")
    requirements = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in (back_end, "gcs", "dev"):
        requirements += wanted(extra, f"3.{version}")
    assert len(requirements) > 20
    for requirement in requirements:
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement} is not pinned: make lock"
        assert pinned in requirement.specifier, f"{requirement} is pinned as {pinned}: make lock"


@pytest.mark.parametrize("path", [*FILES, ROOT / "requirements" / "uv.txt"], ids=lambda path: path.stem)
def test_every_pin_has_a_hash_and_no_file_an_address(path):
    text = path.read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "--index" not in text
