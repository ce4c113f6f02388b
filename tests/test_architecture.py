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
    "hermes_cli": {"hermes_cli", "curate", "engine", "train"},
    "benchmarks": set(PACKAGES),
}
FLOORS = {
    "engine": (
        *("lazy", "errors", "records", "ranges", "devices", "files", "kernels", "metering"),
        *("models", "machine", "checkpoints", "tokenizers", "samplers", "official", "serving"),
    ),
    "curate": (
        *(
            "protocol",
            "shapes",
            "sheet",
            "bad_rows",
            "answers",
            "sources",
            "config",
            "rules",
            "pairs",
            "scoring",
            "questions",
        ),
        *("store", "workers", "resume", "sampling", "pipeline", "exchange", "evaluation"),
    ),
    "train": (
        *("config", "losses", "data", "logps", "distributed", "reference", "pair_source", "logging", "loop"),
        *("command", "pretraining"),
    ),
    "hermes_cli": (
        *(
            "former",
            "typed",
            "settings",
            "recipes",
            "view",
            "pages",
            "run",
            "options",
            "inspection",
            "reporting",
            "stages",
        ),
        *("commands", "plan", "main", "__main__"),
    ),
    "benchmarks": ("speed", "parity", "gpu", "resilience", "experiment"),
}
"""The rooms of each package from the ground up: a room imports only rooms before it."""
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            inside = ROOT / node.module.replace(".", "/")
            for alias in node.names:
                module = (inside / alias.name).is_dir() or (inside / f"{alias.name}.py").is_file()
                found.add(f"{node.module}.{alias.name}" if module else node.module)
    return found


@each_file
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imported(path)} & set(PACKAGES)
    assert ours <= ALLOWED[package]


@each_file
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    package, room, *_ = path.relative_to(ROOT).with_suffix("").parts
    if room == "__init__":
        return
    names = [name.split(".") for name in imported(path)]
    used = {name[1] for name in names if name[0] == package and len(name) > 1} - {room}
    assert room in FLOORS[package], f"give the room {room} its place in FLOORS"
    assert used <= set(FLOORS[package][: FLOORS[package].index(room)])


@each_file
def test_only_serving_imports_vllm_and_neither_curate_nor_train_import_serving(path: Path) -> None:
    package, room, *_ = path.relative_to(ROOT).parts
    names = imported(path)
    if any(name.split(".")[0] == "vllm" for name in names):
        assert (package, room) == ("engine", "serving")
    if package in ("curate", "train"):
        assert not any(name.startswith("engine.serving") for name in names)


@pytest.mark.parametrize("name", ["records", "errors"])
def test_records_and_errors_import_no_heavy_library(name: str) -> None:
    assert imported(ROOT / "engine" / f"{name}.py") <= {"__future__", "hashlib", "msgspec", "typing"}


def test_no_file_is_called_utils() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]
