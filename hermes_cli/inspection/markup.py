"""HTML by construction: whatever is not markup already is escaped, so no text can become an element."""

from __future__ import annotations

from html import escape

VOID = frozenset({"br", "img", "input", "meta"})
"""Elements that have no content and no end."""


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def join(*parts: str) -> Markup:
    """Parts one after the other; those that are no markup are escaped."""
    return Markup("".join(one if isinstance(one, Markup) else escape(one) for one in parts))


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element. `class_` is class, `data_x` is data-x; an attribute that is None or False is left out."""
    written = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        written.append(label if value is True else f'{label}="{escape(str(value))}"')
    opened = f"<{' '.join(written)}>"
    return Markup(opened if name in VOID else f"{opened}{join(*children)}</{name}>")
