"""Which requests are answered, and which hosts this process may ask.

Gradio answers many more requests than the page makes, and fetches files for whoever names a URL.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Guard", "is_loopback", "refuse_other_hosts"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_ASKED = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)|/(assets|static)/.+"
    r"|/gradio_api/(startup-events|info|upload|upload_progress|cancel|reset|theme\.css"
    r"|run/predict|queue/(join|data)|heartbeat/\w+|file=/.+)", re.DOTALL)
# A browser loads nothing from another host for the page, and shows it in no other site's page.
_POLICY = (b"content-security-policy", b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: "
           b"blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'none'")
_FORM_BYTES = 1 << 20  # around uploaded files, and of any other request


class Guard:
    """ASGI middleware that refuses what the page never asks for.

    ``own_names``: the names of this machine that a request may come to, None: any. It ends attacks
    by other sites' pages whose name suddenly means this machine. ``max_upload``: bytes of the files
    of one request.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *,
                 own_names: frozenset[str] | None, max_upload: int) -> None:
        self._app, self._own_names, self._max_upload = app, own_names, max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), _POLICY]
            await send(message)

        status = self._refusal(scope) if scope["type"] == "http" else None
        if status is None:
            await self._app(scope, receive, with_policy)
            return
        await send({"type": "http.response.start", "status": status,
                    "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def _refusal(self, scope: Scope) -> int | None:
        """The status of a request that is refused."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1")
                   for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._own_names is not None and urlsplit(f"//{host}").hostname not in self._own_names:
            return 403
        if origin is not None and urlsplit(origin).netloc != host:
            return 403  # a form or script of another site
        if not _ASKED.fullmatch(scope["path"]):
            return 404
        if scope["method"] in ("GET", "HEAD"):
            return None
        most = _FORM_BYTES
        if scope["path"] == "/gradio_api/upload":
            most += self._max_upload
        length = headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,15}", length):
            return 411
        return 413 if int(length) > most else None


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a server of that address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_other_hosts(host: str) -> None:
    """From now on this process connects to no host but this machine and ``host``, its server's
    address, and looks up no other name. Cannot be undone."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            asked = arguments[0]
        elif event in ("socket.connect", "socket.sendto"):
            address = arguments[1]
            if not isinstance(address, tuple):  # a socket of this machine, by a path
                return
            asked = address[0]
        else:
            return
        name = asked.decode("latin-1") if isinstance(asked, bytes) else asked
        if name and name != host and not is_loopback(name):
            raise socket.gaierror(f"this process asks no other host, so not {name}")

    sys.addaudithook(refuse)
