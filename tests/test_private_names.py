"""Private names of libraries, which may go with any release: each is known here, and still there.

A name is private that begins with an underscore and is not Python's own: an import, an attribute of anything
but `self` and `cls`, one of theirs that none of our classes defines, a keyword of a call, a name asked for by
`getattr` and the like.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Set
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "curate", "train", "hermes_cli", "benchmarks")
OUR_FILES = [str(file.relative_to(ROOT)) for package in PACKAGES for file in (ROOT / package).rglob("*.py")]


class Private(NamedTuple):
    """A private name and who has it: `a.module` or `a.module:An.object`."""

    name: str
    owner: str


KNOWN = {
    "curate/workers/ray_pool.py": {Private("_node_ip_address", "ray:init")},
    "train/distributed/full_precision.py": {
        Private("_lazy_init_hp_params_optimizer_state", "deepspeed.runtime.bf16_optimizer:BF16_Optimizer"),
        Private(
            "_lazy_init_hp_params_optimizer_state",
            "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer",
        ),
    },
    "train/distributed/policy.py": {Private("__compatible_ops__", "deepspeed.ops")},
    "benchmarks/gpu/training.py": {Private("_foreach_copy_", "torch")},
    "benchmarks/speed/logps_sides.py": {
        Private("_ChunkedSelectiveLogProbFunction", "liger_kernel.chunked_loss.fused_linear_ppo")
    },
}
"""Each file's private names. A library's are used in one room, and none where a public name would do."""
EACH = [(path, private) for path, names in KNOWN.items() for private in sorted(names)]
PUBLIC = {
    *("_asdict", "_exit", "_fields", "_make", "_replace", "__post_init__", "__struct_fields__"),
    *(name for kind in (type, BaseException, sys) for name in dir(kind) if name.startswith("__")),
}
"""What Python and msgspec document: of named tuples, of `os`, of structs, of every object and module."""
ASKING = {"getattr", "hasattr", "setattr", "delattr", "attrgetter", "methodcaller"}


def of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def defined(tree: ast.AST) -> set[str]:
    """Names of the functions, classes, variables and attributes that a file makes."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_self(node):
            found.add(node.attr)
    return found


def used(tree: ast.AST, ours: Set[str]) -> Iterator[str]:
    """Names that a file takes from others; `ours` are those which it may take from `self` and `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            if module[0] not in PACKAGES:
                yield from (*module, *(alias.name for alias in node.names))
        elif isinstance(node, ast.Attribute):
            if not (of_self(node) and node.attr in ours):
                yield node.attr
        elif isinstance(node, ast.Call):
            yield from (keyword.arg for keyword in node.keywords if keyword.arg)
            if getattr(node.func, "id", getattr(node.func, "attr", "")) in ASKING:
                strings = (one.value for one in node.args if isinstance(one, ast.Constant))
                yield from (part for one in strings if isinstance(one, str) for part in one.split("."))


def private_names(source: str, ours: Set[str] = frozenset()) -> set[str]:
    """The private names of libraries that a file uses."""
    tree = ast.parse(source)
    names = {name for name in used(tree, ours | defined(tree)) if name.startswith("_")}
    return names - PUBLIC - {"__future__"}


def holder(owner: str) -> Any:
    module, _, inside = owner.partition(":")
    found = import_module(module)
    return attrgetter(inside)(found) if inside else found


def still_there(private: Private) -> bool:
    """Whether the installed library has the name: an attribute, or an argument of a function."""
    owner = holder(private.owner)
    # Ray takes such arguments out of its `**kwargs`, where no signature shows them.
    return hasattr(owner, private.name) or (
        inspect.isfunction(owner) and f'"{private.name}"' in inspect.getsource(owner)
    )


def test_private_names_of_libraries_are_used_only_where_it_is_known() -> None:
    sources = {path: (ROOT / path).read_text() for path in OUR_FILES}
    ours = {name for source in sources.values() for name in defined(ast.parse(source))}
    found = {path: names for path, source in sources.items() if (names := private_names(source, ours))}
    assert found == {path: {private.name for private in names} for path, names in KNOWN.items()}


def test_private_names_of_a_library_are_used_in_one_room() -> None:
    rooms: dict[str, set[str]] = {}
    for path, private in EACH:
        if not path.startswith("benchmarks"):
            rooms.setdefault(private.owner.partition(".")[0], set()).add(str(Path(path).parent))
    assert all(len(places) == 1 for places in rooms.values()), rooms


@pytest.mark.parametrize(("path", "private"), EACH, ids=[private.owner for _, private in EACH])
def test_a_private_name_is_still_there(path: str, private: Private) -> None:
    library = private.owner.replace(":", ".").partition(".")[0]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    try:
        there = still_there(private)
    except (ImportError, AttributeError):
        there = False
    version = getattr(import_module(library), "__version__", "unknown version")
    assert there, f"{library} {version} has moved: {private.owner} has no {private.name} more; {path} uses it"


SOURCE = """
from __future__ import annotations
import lib._hidden
from lib import _imported, public
from lib._inside import name
from engine.records import _ours
class Mine(lib.Base):
    def __init__(self):
        super().__init__()
        self._own = self._inherited
        type(self).__name__, self._own.other
    def _method(self, other):
        self._method(), other._attribute, getattr(other, "_asked"), hasattr(other, "public")
        other.call(_keyword=1), other._replace(a=1), other.__magic__, attrgetter("a._nested")
"""


def test_the_scan_sees_every_way_to_a_private_name() -> None:
    assert private_names(SOURCE) == {
        *("_hidden", "_imported", "_inside", "_inherited", "_attribute", "_asked", "_keyword", "_nested"),
        "__magic__",
    }


def test_a_name_that_is_gone_is_noticed() -> None:
    assert still_there(Private("_replace", "ast:parse")) is False
    assert still_there(Private("_exit", "os"))
