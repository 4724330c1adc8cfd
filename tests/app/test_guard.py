"""Requests that are answered, and hosts that the process may ask."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from bidiff_deploy.app.guard import Guard, is_loopback

HOST = "127.0.0.1:7860"
OWN = frozenset({"localhost", "127.0.0.1", "::1"})
MOST = 1_000_000


def status(path: str = "/", method: str = "GET", own: frozenset[str] | None = OWN,
           **headers: str) -> int:
    """What a request gets; 200: it was passed on."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = {"host": HOST, **headers}
    scope = {"type": "http", "path": path, "method": method, "headers": [
        (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(Guard(app, own_names=own, max_upload=MOST)(scope, None, send))
    assert (200 != sent[0]["status"]) or b"default-src 'self' " in dict(sent[0]["headers"])[
        b"content-security-policy"]
    return sent[0]["status"]


@pytest.mark.parametrize("path", [
    "/", "/config", "/theme.css", "/assets/index.js", "/static/img/logo.svg", "/gradio_api/upload",
    "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/heartbeat/a1b2",
    "/gradio_api/file=/folder/a b.png", "/gradio_api/run/predict", "/gradio_api/cancel"])
def test_what_the_page_asks_is_answered(path):
    assert status(path) == 200


@pytest.mark.parametrize("path", [
    "/gradio_api/runs", "/gradio_api/file=http://example.com/a.png", "/gradio_api/proxy=/x",
    "/gradio_api/vibe-edit", "/monitoring", "/gradio_api/call/run", "/docs", "/openapi.json",
    "/gradio_api/stream/a", "/gradio_api/component_server", "/gradio_api/file/x", "",
    "/gradio_api/process_recording", "/login"])
def test_other_things_are_not_found(path):
    assert status(path) == 404


@pytest.mark.parametrize(("host", "found"), [
    ("localhost:7860", 200), ("[::1]:7860", 200), ("127.0.0.1", 200), ("evil.example:7860", 403),
    ("127.0.0.1.evil.example", 403), ("", 403), ("127.0.0.1@evil.example", 403)])
def test_names_of_other_machines_are_refused_on_loopback(host, found):
    assert status(host=host) == found
    assert status(own=None, host=host) == 200


@pytest.mark.parametrize(("origin", "found"), [
    (f"http://{HOST}", 200), ("http://evil.example", 403), ("null", 403),
    ("http://127.0.0.1:9999", 403)])
def test_pages_of_other_sites_are_refused(origin, found):
    for own in (OWN, None):
        assert status("/gradio_api/run/predict", "POST", own, origin=origin,
                      content_length="2") == found


@pytest.mark.parametrize(("path", "length", "found"), [
    ("upload", "1000", 200), ("upload", str(MOST + (1 << 20)), 200),
    ("upload", str(MOST + (1 << 20) + 1), 413), ("run/predict", str(1 << 20), 200),
    ("run/predict", str((1 << 20) + 1), 413), ("upload", "", 411), ("upload", "-1", 411),
    ("upload", "9" * 20, 411)])
def test_sizes_are_bounded(path, length, found):
    assert status(f"/gradio_api/{path}", "POST", content_length=length) == found


@pytest.mark.parametrize(("host", "found"), [
    ("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True), ("[::1]", True),
    ("0.0.0.0", False), ("192.168.1.2", False), ("example.com", False), ("", False)])
def test_loopback(host, found):
    assert is_loopback(host) is found


def test_the_process_asks_no_other_host():
    program = """
import socket
from bidiff_deploy.app.guard import refuse_other_hosts
refuse_other_hosts("192.0.2.1")
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(("localhost", server.getsockname()[1])).close()
for ask in (lambda: socket.getaddrinfo("example.com", 80), lambda: socket.getaddrinfo(b"a.b", 80),
            lambda: socket.socket().connect(("192.0.2.7", 80)),
            lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.7", 53)),
            lambda: socket.create_connection(("2001:db8::1", 80))):
    try:
        ask()
    except OSError as error:
        assert "asks no other host" in str(error), error
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)
