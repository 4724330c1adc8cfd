"""From the command's options to a running server, until a signal ends it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError, UsageError, one_line
from ..files.temporaries import temporary
from .guard import Guard, is_loopback, refuse_other_hosts

__all__ = ["Settings", "serve"]


@dataclass(frozen=True)
class Settings:
    """Options of the command.

    port        None: the first that is free, from 7860
    model       what is chosen first, None: the default
    threads     of an operator, None: all cores
    max_pixels  of a photo
    max_upload  bytes of one page's photos
    """

    host: str
    port: int | None
    model: str | None
    threads: int | None
    max_pixels: int
    max_upload: int


def serve(settings: Settings, on_ready: Callable[[str], object]) -> None:
    """Serve the page until SIGINT or SIGTERM, in the main thread; ``on_ready`` gets its address.

    Everything that pages leave is in one temporary folder of this user alone, which is removed at
    the end. From now on the process asks no other host. Raises EngineError without Gradio,
    UsageError for an address that is not free, and as ``open_model``.
    """
    if importlib.util.find_spec("gradio") is None:
        raise EngineError("gradio is not installed; pip install 'bidiff-deploy[app]'")
    # What a killed process left is removed by the next one.
    _check_free(settings)
    with temporary(Path(tempfile.gettempdir(), "bidiff-app").resolve(), directory=True) as root, \
            _signals() as ended:
        root.chmod(0o700)
        _prepare(root)
        refuse_other_hosts(settings.host)
        _run(settings, root, on_ready, ended)


def _check_free(settings: Settings) -> None:
    """Before Gradio is imported, which takes seconds. Raises UsageError."""
    port = settings.port or 0
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host.strip("[]"), port), family=family).close()
    except OSError as error:
        where = f"{settings.host}:{port}" if port else settings.host
        raise UsageError(f"cannot listen at {where}: {error.strerror or one_line(error)}; choose "
                         "another --host or --port") from None


def _prepare(root: Path) -> None:
    """Gradio's own settings, from before it is imported."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(root),
                      GRADIO_RUN_HISTORY="False", HF_HUB_OFFLINE="1",
                      HF_HUB_DISABLE_TELEMETRY="1")


def _run(settings: Settings, root: Path, on_ready: Callable[[str], object],
         ended: threading.Event) -> None:
    from starlette.middleware import Middleware

    from .layout import build, style
    from .pages import Pages
    from .photos import Upscaler

    local = is_loopback(settings.host)
    pages, upscaler = Pages(root, settings.max_upload), Upscaler(
        settings.threads, settings.max_pixels)
    blocks = build(pages, upscaler, settings.model,
                   ("Photos stay on this computer, and are deleted when this page closes." if local
                    else "Photos are computed on the server, and are deleted when this page "
                    "closes."))
    names = frozenset({"localhost", "127.0.0.1", "::1", settings.host.strip("[]")})
    guard = Middleware(Guard, own_names=names if local else None, max_upload=settings.max_upload)
    try:
        _, address, _ = blocks.launch(
            server_name=settings.host, server_port=settings.port, prevent_thread_lock=True,
            quiet=True, share=False, inbrowser=False, show_error=True, ssr_mode=False,
            footer_links=[], max_file_size=settings.max_upload,
            app_kwargs={"middleware": [guard]}, **style())
        on_ready(address)
        ended.wait()
    finally:
        pages.close_all()
        blocks.close(verbose=False)
        upscaler.close()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second SIGINT ends the process as usual."""
    ended = threading.Event()
    previous: dict[signal.Signals, Any] = {}

    def end(number: int, _: object) -> None:
        ended.set()
        if number == signal.SIGINT:  # `timeout` sends SIGTERM twice
            signal.signal(number, previous[signal.SIGINT])

    for each in (signal.SIGINT, signal.SIGTERM):
        previous[each] = signal.signal(each, end)
    try:
        yield ended
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
