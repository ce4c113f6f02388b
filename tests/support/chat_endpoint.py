"""A small OpenAI-compatible endpoint that looks at the image it is sent: it names its strongest colour."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "blue")


class Reply(NamedTuple):
    """What a request gets instead of an answer."""

    status: int
    body: str = ""
    retry_after: str = "0"
    seconds: float = 0.0


class Endpoint(ThreadingHTTPServer):
    """Serves on 127.0.0.1; the first requests get the replies given, all others an answer."""

    daemon_threads = True

    def __init__(self, replies: list[Reply], seconds: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.replies = list(replies)
        self.seconds = seconds
        self.requests: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        """Base of the endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            headers = dict(self.headers)
            server.requests.append(
                {
                    "path": self.path,
                    "headers": headers,
                    "key": self.headers.get("Authorization"),
                    "body": body,
                    "time": time.monotonic(),
                }
            )
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            reply = server.replies.pop(0) if server.replies else None
        time.sleep(reply.seconds if reply else server.seconds)
        with server.lock:
            server.in_flight -= 1
        if reply is None:
            message = {"role": "assistant", "content": seen_colour(body)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send(200, json.dumps({"object": "chat.completion", "choices": [choice]}))
        else:
            self._send(reply.status, reply.body, reply.retry_after)

    def _send(self, status: int, text: str, retry_after: str = "") -> None:
        content = text.encode()
        try:
            self.send_response(status)
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def seen_colour(body: dict[str, Any]) -> str:
    """The strongest colour of the picture in a request, as a sentence."""
    picture, _ = body["messages"][0]["content"]
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "PNG"
        mean = np.asarray(image.convert("RGB")).mean((0, 1))
    return f" {COLOURS[int(mean.argmax())].title()}. "


@contextmanager
def serving(*replies: Reply, seconds: float = 0.0) -> Iterator[Endpoint]:
    """An endpoint that serves inside the block."""
    endpoint = Endpoint(list(replies), seconds)
    thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.shutdown()
        thread.join()
        endpoint.server_close()
