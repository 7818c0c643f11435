"""Servers with faults: one that passes requests on to another, and one that gives what it is told."""

import contextlib
import http.client
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def unused_url() -> str:
    """An address where nothing answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    """Reads the body of a request, and writes an answer."""

    def do_GET(self) -> None:
        self.respond(None)

    def do_POST(self) -> None:
        self.respond(self.rfile.read(int(self.headers["Content-Length"])))

    def respond(self, body: bytes | None) -> None:
        raise NotImplementedError

    def answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves from a thread while it is entered."""

    handler: type[Handler]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class FaultyHandler(Handler):
    server: "FaultyServer"

    def respond(self, body: bytes | None) -> None:
        if body is None:
            return self.forward(body)
        self.server.asked.append(time.monotonic())
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "slow":
            self.connection.recv(1)  # until the client hangs up
        elif fault in ("", "wait for three"):
            if fault:
                self.server.three.wait(60)
            self.forward(body)
        else:
            status, _, retry_after = fault.partition(" ")
            error = json.dumps({"error": {"message": f"no, {self.server.key}"}}).encode()
            self.answer(error, int(status), **({"Retry_After": retry_after} if retry_after else {}))
        return None

    def forward(self, body: bytes | None) -> None:
        connection = http.client.HTTPConnection(self.server.host)
        headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        self.answer(answer.read(), answer.status)


class FaultyServer(Server):
    """Passes requests on to a server, after the faults that it is told to make; its errors tell the key."""

    handler = FaultyHandler

    def __init__(self, target: str, key: str) -> None:
        super().__init__()
        self.host, self.key = target.removeprefix("http://").removesuffix("/v1"), key
        self.faults: list[str] = []
        self.three = threading.Barrier(3)
        self.asked: list[float] = []


class OddHandler(Handler):
    server: "OddServer"

    def respond(self, body: bytes | None) -> None:
        value = self.server.models if body is None else self.server.reply
        if body is not None:
            self.server.bodies.append(json.loads(body))
        with contextlib.suppress(OSError):
            if not isinstance(value, float):
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
                status = 200 if body is None else self.server.status
                return self.answer(content, status, **self.server.headers)
            self.answer(b" ")
            while True:
                time.sleep(value)
                self.wfile.write(b" ")


class OddServer(Server):
    """Gives what it is told as list of models and as reply; a float is the pause between two bytes."""

    handler = OddHandler

    def __init__(self, reply: object) -> None:
        super().__init__()
        self.models: object = {"data": [{"id": "m"}]}
        self.reply = reply
        self.headers: dict[str, str] = {}
        self.status = 200  # of replies
        self.bodies: list[dict] = []
