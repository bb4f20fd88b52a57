"""What all pages are filled in with."""

import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

_SHARED = Path(__file__).with_name("templates")


def environment(templates: Path) -> jinja2.Environment:
    """Templates of one folder, and those that all pages share: what is filled in is escaped, and must be there.

    Args:
        templates: the folder.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, _SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def number(path: str, form: str, text: str) -> Markup:
    """A number as an element that says where it stands in what the page shows, and how it is written."""
    return Markup('<span data-path="{}" data-format="{}">{}</span>').format(path, form, text)


def breaking(text: object) -> Markup:
    """A name that may break where it has joints."""
    return Markup(re.sub("(?=[(@.])|(?<=,)", "<wbr>", escape(text)))
