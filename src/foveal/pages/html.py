"""The environment in which pages are filled in."""

from pathlib import Path

import jinja2

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
