"""requirements.lock pins what pyproject.toml asks for, and says nothing about where packages come from."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LINES = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[0-9][A-Za-z0-9.!]*)")
MATCHES = [PIN.fullmatch(line) for line in LINES if not line.startswith("#")]
PINS = {canonicalize_name(match["name"]): Version(match["version"]) for match in MATCHES if match}
DIRECT = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]


def test_every_line_is_one_exact_pin():
    """So there is no URL, local path, option, range or build suffix."""
    assert [line for line in LINES if not line.startswith("#") and not PIN.fullmatch(line)] == []
    assert len(PINS) == len(MATCHES) > len(DIRECT)


def test_pins_are_sorted():
    names = [match["name"].upper() for match in MATCHES if match]
    assert names == sorted(names)


def test_header_names_no_place():
    header = "\n".join(line for line in LINES if line.startswith("#"))
    assert "make lock" in header
    assert not re.search(r"://|index|\.org\b|\.com\b|/opt|/home|/root", header)


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_direct_dependency_is_pinned_in_its_range(requirement: Requirement):
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("name", [requirement.name for requirement in DIRECT])
def test_installed_version_is_the_pin(name: str):
    try:
        installed = Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert Version(installed.public) == PINS[canonicalize_name(name)]


def test_nothing_is_left_to_the_resolver():
    """All that the pinned packages require is pinned too, except the CUDA libraries of torch."""
    unpinned = set()
    for name in PINS:
        try:
            requirements = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        needed = {canonicalize_name(r.name) for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})}
        unpinned |= {f"{name} needs {other}" for other in needed - PINS.keys() if not _is_cuda(other)}
    assert unpinned == set()


def test_torch_is_pinned_for_cpu_and_cuda_alike():
    assert "torch==2.13.0" in LINES
    assert [name for name in PINS if _is_cuda(name)] == []


def _is_cuda(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-", "triton"))
