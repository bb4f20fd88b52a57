"""The command `foveal view`."""

import importlib.util
import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .printing import load_host


def view(
    folder: Annotated[Path, typer.Argument(help="Of a study, or of foveal explain.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for a free one.")] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
) -> None:
    """A page over a study, also one under way, or over explained images: on this machine only, until Ctrl-C.

    Prints its address. Shows how far each run is, the images won and lost with the boxes of both arms, and the gates.
    """
    for package in ("starlette", "uvicorn", "jinja2", "PIL"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the page needs {package}, which is not installed", "pip install 'foveal[view]'")
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
