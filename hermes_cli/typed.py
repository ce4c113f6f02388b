"""A setting as somebody typed it: what kind of value it wants, and what is wrong with the one it got."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import inspect

_LISTS = (inspect.ListType, inspect.VarTupleType)
_TYPES: dict[type, str] = {
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.BoolType: "true or false",
    inspect.StrType: "text",
    inspect.VarTupleType: 'a list, such as ["one", "two"]',
    inspect.StructType: "a table of settings",
}


def problem(message: str, tree: dict[str, Any], settings: type) -> str:
    """What msgspec says of a setting, in the words of who typed it."""
    said, _, place = message.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", said):
        name = f"{path}.{unknown[1]}".lstrip(".")
        near = get_close_matches(name, _names(settings), 1, 0.8)
        meant = f"did you mean {near[0]}?" if near else "`hermes config` lists all"
        return f"there is no setting {name}; {meant}"
    value: Any = tree
    for name, number in re.findall(r"(\w+)|\[(\d+)\]", path):
        value = value[int(number)] if number else value[name]
    kinds = kinds_of(settings, path)
    choices = [str(one) for kind in kinds if isinstance(kind, inspect.LiteralType) for one in kind.values]
    wanted = [_TYPES[type(kind)] for kind in kinds if type(kind) in _TYPES]
    if choices:
        return f"{path} is {value!r}; it is one of {', '.join(dict.fromkeys(choices))}"
    return f"{path} is {value!r}; it must be {' or '.join(wanted)}" if wanted else message


def _names(settings: type, before: str = "") -> Iterator[str]:
    """Dotted names of all settings."""
    for field in msgspec.structs.fields(settings):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _names(field.type, f"{before}{field.encode_name}.")
        else:
            yield before + field.encode_name


def kinds_of(settings: type, path: str) -> list[inspect.Type]:
    """The types that a setting may have, or the elements of a list; none where there is no such setting."""
    kinds = [*_parts(inspect.type_info(settings))]
    for name, number in re.findall(r"(\w+)|\[(\d+)\]", path):
        if number:
            kinds = [one for kind in kinds if isinstance(kind, _LISTS) for one in _parts(kind.item_type)]
            continue
        fields = (field for kind in kinds if isinstance(kind, inspect.StructType) for field in kind.fields)
        kinds = [part for field in fields if field.encode_name == name for part in _parts(field.type)]
    return kinds


def _parts(kind: inspect.Type) -> Iterator[inspect.Type]:
    """A type, or those of a union."""
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _parts(one)
    else:
        yield kind
