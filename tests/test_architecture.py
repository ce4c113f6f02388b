"""The import rules: data flows from left to right, with no way back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "curate", "train", "hermes_cli", "benchmarks")
ALLOWED = {
    "engine": {"engine"},
    "curate": {"curate", "engine"},
    "train": {"train", "engine"},
    "benchmarks": {"benchmarks", "curate", "engine", "train"},
    "hermes_cli": set(PACKAGES),
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name for name in imported(path) if name.split(".")[0] in PACKAGES}
    assert {name.split(".")[0] for name in ours} <= ALLOWED[package]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_vllm_modules_of_the_engine_import_vllm(path: Path) -> None:
    names = imported(path)
    if any(name.split(".")[0] == "vllm" for name in names):
        assert path.parent.name == "engine"
        assert path.name.startswith("vllm_")
    if path.relative_to(ROOT).parts[0] in ("curate", "train"):
        assert not any(name.startswith("engine.vllm") for name in names)


@pytest.mark.parametrize("name", ["records", "errors"])
def test_records_and_errors_import_no_heavy_library(name: str) -> None:
    assert imported(ROOT / "engine" / f"{name}.py") <= {"__future__", "hashlib", "msgspec", "typing"}


def test_no_file_is_called_utils() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]


def test_the_engine_package_itself_imports_nothing() -> None:
    assert (ROOT / "engine" / "__init__.py").read_text() == ""
