"""The examples that users copy run, pages link to what is there, and docs stay short."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from curate.evaluation.config import EvalConfig
from engine import EMBEDDED_MODEL

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.S | re.M)


@pytest.mark.parametrize("package", ["engine", "curate", "train"])
def test_a_packages_example_runs(package: str) -> None:
    found = doctest.testmod(importlib.import_module(package))
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("package", ["engine", "curate", "train"])
def test_every_public_name_is_there_and_importing_the_package_is_light(package: str) -> None:
    script = (
        f"import sys, {package}\n"
        "assert not {'torch', 'vllm', 'transformers', 'numpy'} & sys.modules.keys()\n"
        f"for name in {package}._HOMES: getattr({package}, name)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=300)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = importlib.import_module(package).nonsense


@pytest.mark.parametrize("number", range(4))
def test_a_block_of_extending_asserts_something_that_holds(number: int) -> None:
    found = blocks(ROOT / "docs/extending.md")
    assert len(found) == 4
    assert "\nassert " in found[number]
    exec(compile(found[number], "docs/extending.md", "exec"), {})


def test_the_readmes_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(ROOT / "README.md")
    exec(compile(block, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link
    for name in re.findall(r"`((?:engine|curate|train|hermes_cli|benchmarks|tests|docs)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m ((?:benchmarks|hermes_cli)[\w.]*)", page.read_text()):
        place = ROOT / module.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), module


def test_the_readme_says_of_the_embedded_model_what_its_card_does() -> None:
    measured = json.loads((EMBEDDED_MODEL / "card.json").read_bytes())["evaluation"]
    und, gen, gap = (f"{measured[side]:.3f}" for side in ("und", "gen", "gap"))
    steps, items = measured["config"]["image"]["steps"], measured["config"]["limit"]
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"gap on {items} items is {gap} ({und} - {gen}, at {steps} steps, as `hermes eval" in text
    # Nothing else decides it: the command measures with the settings of the card.
    assert msgspec.convert(measured["config"], EvalConfig) == EvalConfig(limit=items)


def test_the_docs_stay_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
    assert sum(len(page.read_text().split()) for page in PAGES) <= 10_000
