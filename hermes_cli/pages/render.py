"""Pages from Jinja templates: one layout, one stylesheet, and nothing from elsewhere.

Captions, answers and reasons come from models and data sets. The templates escape all that they are given,
and the content security policy of the layout allows no script but `page.js`.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from hermes_cli.pages.charts import axis
from hermes_cli.view import (
    counted,
    format_duration,
    format_estimate,
    format_time,
    round_name,
    signed,
    signed_estimate,
)


@cache
def templates() -> Environment:
    """The templates of this folder; a name that a template does not find is an error."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(disabled_extensions=("md.j2",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "counted": counted,
        "duration": format_duration,
        "estimate": format_estimate,
        "fixed": lambda value, digits=3: f"{value:.{digits}f}",
        "percent": lambda share: f"{share:.0%}",
        "prose": _prose,
        "round_name": round_name,
        "signed": signed,
        "signed_estimate": signed_estimate,
        "time": format_time,
    }
    found.globals["axis"] = axis
    return found


def render_page(template: str, **content: Any) -> bytes:
    """A whole document."""
    css, script = (Path(__file__).with_name(name).read_text() for name in ("page.css", "page.js"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = templates().get_template(template)
    text = page.render(css=Markup(css), script=Markup(script), script_digest=allowed, **content)
    return text.encode()


def _prose(text: str) -> Markup:
    """Text in which `commands` stand out."""
    parts = (
        Markup("<code>{}</code>" if place % 2 else "{}").format(part)
        for place, part in enumerate(text.split("`"))
    )
    return Markup("").join(parts)
