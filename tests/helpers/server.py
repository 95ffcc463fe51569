"""A web server on this machine, with the faults that servers and connections have."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Server:
    """Serves contents by path, and records what it was asked.

    Attributes:
        files: contents by path, such as `/weights/a.pth`.
        redirects: paths by path.
        cuts: number of bytes after which the next answers for a path end, one answer each.
        statuses: statuses of the next answers for a path.
        ranges: whether the server knows Range.
        lengths: whether it sends Content-Length.
        headers: of the next answers for a path, in place of its own; one answer each.
        requests: path and Range of each request, in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.cuts: dict[str, list[int]] = {}
        self.statuses: dict[str, list[int]] = {}
        self.headers: dict[str, list[dict[str, str]]] = {}
        self.ranges = self.lengths = True
        self.requests: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, wanted = unquote(request.path), request.headers.get("Range")
        self.requests.append((path, wanted))
        if self.statuses.get(path):
            return self.send(request, self.statuses[path].pop(0))
        if path in self.redirects:
            return self.send(request, 302, Location=self.redirects[path])
        if path not in self.files:
            return self.send(request, 404)
        content, status, headers = self.files[path], 200, {}
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send(request, 416, **{"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if self.lengths:
            headers["Content-Length"] = str(len(content))
        if self.headers.get(path):
            headers |= self.headers[path].pop(0)
        if self.cuts.get(path):
            content = content[: self.cuts[path].pop(0)]
        return self.send(request, status, content, **headers)

    def send(
        self, request: BaseHTTPRequestHandler, status: int, content: bytes = b"", **headers: str
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)
        request.close_connection = True


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
