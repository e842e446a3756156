"""Object stores and servers on loopback, for tests, with the faults that real ones have."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from crfrnn.io import paths

KEYS = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
}


@dataclass
class Store:
    """An S3 server on loopback.

    Attributes:
        url: its address.
        system: fsspec's file system on it.
        broken: ends of the paths that are answered with 500.
        halved: ends of the paths of which half the bytes are sent.
        puts: paths that were written, in order.
    """

    url: str
    system: Any = None
    broken: set[str] = field(default_factory=set)
    halved: set[str] = field(default_factory=set)
    puts: list[str] = field(default_factory=list)

    def names(self, folder: str) -> list[str]:
        paths = self.system.ls(folder, detail=False, refresh=True)
        return sorted(path.rpartition("/")[2] for path in paths)


@contextmanager
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Serve the bucket `bucket`; processes that start in the meantime find it as well."""
    for name in ("moto", "s3fs", "flask_cors"):
        pytest.importorskip(name, reason="needs moto and s3fs for an object store")
    import fsspec
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server
    from werkzeug.wrappers import Response

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    inner = DomainDispatcherApplication(create_backend_app)

    def application(environ: Any, start: Any) -> Any:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.endswith(tuple(opened.broken)):
            return Response("broken", 500)(environ, start)
        if method == "PUT":
            opened.puts.append(path)
        if method == "GET" and path.endswith(tuple(opened.halved)):
            response = Response.from_app(inner, environ, buffered=True)
            data = response.get_data()
            for name in [key for key, _ in response.headers if "checksum" in key.lower()]:
                del response.headers[name]  # which not every store has
            response.set_data(data[: len(data) // 2])
            return response(environ, start)
        return inner(environ, start)

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    opened = Store(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in (KEYS | {"FSSPEC_S3_ENDPOINT_URL": opened.url}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": opened.url})
    opened.system = fsspec.filesystem("s3")
    paths._open.cache_clear()  # it knows the last server of this name
    try:
        urlopen(Request(f"{opened.url}/moto-api/reset", method="POST")).close()
        opened.system.mkdir("bucket")
        yield opened
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _owner_of(port: int, server: int) -> int:
    """Find the process of this machine that is connected from a port to a server's; on Linux."""
    wanted, other = f":{port:04X}", f":{server:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted) and fields[2].endswith(other) and fields[9] != "0":
            inode = f"socket:[{fields[9]}]"
            for link in Path("/proc").glob("[0-9]*/fd/*"):
                with suppress(OSError):
                    if str(link.readlink()) == inode:
                        return int(link.parts[2])
    raise ProcessLookupError(port)


@contextmanager
def web(files: dict[str, bytes]) -> Iterator[str]:
    """Serve files, a page that lists them, `/hang`, `/500`, and `/kill`, which ends who asks."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0].lstrip("/")
            if name.startswith("hang"):
                time.sleep(600)
            if name.startswith("kill"):
                os.kill(
                    _owner_of(self.client_address[1], self.server.server_address[1]), signal.SIGKILL
                )
                return
            if name.startswith("500"):
                self.send_error(500)
                return
            inside = [path for path in files if path.startswith(f"{name}/")]
            data = files.get(name)
            if data is None and inside:
                data = "".join(
                    f'<a href="{path[len(name) + 1 :]}">x</a>' for path in inside
                ).encode()
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
