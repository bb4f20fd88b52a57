"""The command `foveal view`."""

import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require_installed
from .printing import load_host


def view(
    folder: Annotated[Path, typer.Argument(help="Of a study, or of foveal explain.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for a free one.")] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
) -> None:
    """A page over a study, also one under way, or over explained images: on this machine only, until Ctrl-C.

    Prints its address. Shows how far each run is, the images won and lost with the boxes of both arms, and the gates.
    """
    require_installed("the page", ("starlette", "uvicorn", "jinja2", "PIL"), "'foveal[view]'")
    if (folder / "plan.yaml").is_file():
        os.environ.setdefault("YOLO_OFFLINE", "1")  # who only looks has nothing to fetch and nothing to install
        os.environ.setdefault("YOLO_AUTOINSTALL", "0")
        load_host()
    from ..view import serve

    def ready(address: str) -> None:
        print(address, flush=True)
        if open_page:
            webbrowser.open(address)

    serve(folder, port, ready)
