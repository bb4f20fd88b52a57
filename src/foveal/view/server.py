"""`foveal view`: a page on this machine over the folder of a study, or of `foveal explain`.

Only this machine is answered, nothing is written, and a picture is asked for by a number that was handed out before, a
page by one of the few names that pages have: no other path is served. What lies in a folder is not trusted either, for
somebody else may have made it.
"""

import contextlib
import io
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import UserError
from ..evidence import Says, Task
from ..explain import MANIFEST
from ..pages import html
from .explained import ExplainedFolder

STATIC = Path(__file__).with_name("static")
PLAN = "plan.yaml"
ADDRESS = "127.0.0.1"
HOSTS = ["localhost", ADDRESS]  # else a page from elsewhere could give its own name this address and read along
_NOTHING_ELSE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    f"connect-src 'self'; {_NOTHING_ELSE}",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",  # the next study may get the same port
}
# Of pages that lie in the folder: each has pictures and style in itself, and needs no script.
PAGE_POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox; {_NOTHING_ELSE}"
# What is drawn on a study's images, by task; else boxes.
THINGS = {"segment": "masks", "pose": "key points", "obb": "rotated boxes"}
# What browsers show, and how such files begin.
SHOWN = {
    "jpeg": rb"\xff\xd8\xff",
    "png": rb"\x89PNG\r\n\x1a\n",
    "webp": rb"RIFF....WEBP",
    "gif": rb"GIF8[79]a",
    "bmp": rb"BM",
    "avif": rb"....ftypavi[fs]",
}


class Shown(Protocol):
    """What the page asks of a folder: data for its script by name and numbers, and pictures by their numbers."""

    kind: str
    task: Task  # of the models
    page: str  # where the page lies that says it all, if it is there
    folder: Path

    def data(self, name: str, *numbers: str) -> dict | None:
        """Data as JSON takes it; None if there is nothing by that name."""

    def picture(self, name: str, *numbers: str) -> Path | None:
        """The file of a picture; None if there is nothing by that name."""

    def written(self, name: str) -> Path | None:
        """A page that was written into the folder, by the name that links have for it; None for any other name."""


def application(folder: Path) -> Starlette:
    """The page over a folder, as an ASGI application.

    Args:
        folder: of a study, or of `foveal explain`.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    shown = _open(folder)
    template = html.environment(STATIC).get_template("view.html")
    of = shown.task.name if shown.kind == "study" else ""  # foveal explain draws boxes only
    says = {Says.BOXES: THINGS.get(of, "boxes"), Says.CLASS: "class", Says.MAP: "map"}[shown.task.says]
    boxes = shown.task.says is Says.BOXES
    page = template.render(kind=shown.kind, boxes=boxes, says=says, name=folder.resolve().name)

    def data(request: Request) -> Response:
        found = shown.data(*request.path_params["what"].split("/"))
        if found is None:
            raise HTTPException(404)
        return JSONResponse(found)

    def picture(request: Request) -> Response:
        path = shown.picture(*request.path_params["what"].split("/"))
        if path is None:
            raise HTTPException(404)
        return _picture(path)

    def whole(request: Request) -> Response:
        path = shown.written(request.path_params["name"])
        if path is None:
            raise HTTPException(404)
        return HTMLResponse(path.read_bytes(), headers={"content-security-policy": PAGE_POLICY})

    def script(request: Request) -> Response:
        return Response((STATIC / "view.js").read_bytes(), media_type="text/javascript")

    def style(request: Request) -> Response:
        return Response((STATIC / "view.css").read_bytes(), media_type="text/css")

    routes = [
        Route("/", lambda request: HTMLResponse(page)),
        Route("/view.js", script),
        Route("/view.css", style),
        Route("/data/{what:path}", data),
        Route("/picture/{what:path}", picture),
        Route("/{name:path}", whole),
    ]
    application = Starlette(
        routes=routes,
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        ],
        exception_handlers={UserError: _refused, OSError: _refused, Exception: _failed},
    )
    application.router.redirect_slashes = False
    return application


def serve(folder: Path, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page to this machine until Ctrl-C.

    Args:
        folder: of a study, or of `foveal explain`.
        port: 0 for a free one.
        ready: is called with the page's address.

    Raises:
        UserError: there is nothing to show in the folder, or the port is not free.
    """
    served = application(folder)
    with _listening(port) as door:
        ready(f"http://{ADDRESS}:{door.getsockname()[1]}/")
        # What goes wrong is said by `_failed` in one line, where uvicorn would print a traceback.
        settings = uvicorn.Config(
            served, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1, server_header=False
        )
        server = uvicorn.Server(settings)
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
            server.run(sockets=[door])


# Requests ------------------------------------------------------------------------------------------------------------


def _open(folder: Path) -> Shown:
    if (folder / PLAN).is_file():
        from .study import Watched  # which needs the host, and a moment

        return Watched(folder)
    if (folder / MANIFEST).is_file():
        return ExplainedFolder(folder)
    raise UserError(
        f"{folder} is no folder of a study or of foveal explain: it has neither {PLAN} nor {MANIFEST}",
        "give the folder that foveal study run or foveal explain has written",
    )


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    with socket.socket() as door:
        if os.name == "posix":  # elsewhere it would let two programs have one port
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((ADDRESS, port))
            door.listen()
        except OSError as error:
            raise UserError(f"cannot listen on port {port}: {error.strerror}", "leave --port out") from None
        yield door


class _Headers:
    """Puts `HEADERS` on every answer that does not have its own."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {key for key, _ in message["headers"]}
                own = [(key.encode(), value.encode()) for key, value in HEADERS.items() if key.encode() not in there]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self.app(scope, receive, with_headers)


def _picture(path: Path) -> Response:
    """A file that is a picture by its first bytes, whatever it is called; of TIFF, which no browser shows, a copy."""
    content = path.read_bytes()
    for kind, start in SHOWN.items():
        if re.match(start, content, re.DOTALL):
            return Response(content, media_type=f"image/{kind}")
    # Not by PIL's own `open`: once the host is imported, that installs a package when it does not know a format.
    from PIL import ImageOps, TiffImagePlugin

    try:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(content)) as opened:
            copy = io.BytesIO()
            ImageOps.exif_transpose(opened).convert("RGB").save(copy, "PNG")
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path} is no picture that a browser can show", "JPEG, PNG, WebP and TIFF can") from None
    return Response(copy.getvalue(), media_type="image/png")


def _refused(request: Request, error: Exception) -> Response:
    """What is wrong with the folder, for the page to show."""
    message, hint = (error.message, error.hint) if isinstance(error, UserError) else (str(error), "")
    return JSONResponse({"message": message, "hint": hint}, 409)


def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours: one line, and the server goes on."""
    print(f"{request.url.path}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return PlainTextResponse("the server failed to answer this; it says why where it was started", 500, HEADERS)
