"""A small, fast server in a process of its own, which issues one key for each code and remembers them.

    python -m tests.batch.stub [--rate N] [--log FILE]

It prints its port. ``GET /`` answers the counts as JSON. With ``--log`` each code that comes is appended there, with
``issued`` or ``refused``, in one write each.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self, cast
from urllib.request import urlopen

from tests.support import ROOT

_CODE = re.compile(rb'"code": ?"([^"]*)"')
_ANSWER = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
_REASONS = {200: b"OK", 403: b"Forbidden", 429: b"Too Many Requests"}


def key_of(code: str) -> str:
    """The key that the stub gives for a code."""
    return "sk-or-v1-" + hashlib.sha256(code.encode()).hexdigest()


class Stub:
    """The server: it issues one key for each code.

    Args:
        rate: Requests per second that it accepts, with a burst of the same number; None for no limit.
        log: A file descriptor to append to.
        forgetful: Whether any code is taken any number of times, and none remembered.
    """

    def __init__(self, rate: float | None, log: int | None, *, forgetful: bool) -> None:
        self.rate = rate
        self.log = log
        self.counts = {"issued": 0, "refused": 0, "throttled": 0}
        self.used: set[bytes] | None = None if forgetful else set()
        self._tokens = rate or 0.0
        self._at = time.monotonic()

    def answer(self, request: bytes) -> bytes:
        if request.startswith(b"GET"):
            return _http(200, json.dumps(self.counts).encode())
        if self.rate is not None and (wait := self._throttle(self.rate)) is not None:
            self.counts["throttled"] += 1
            body = b'{"error": {"code": 429, "message": "Slow down"}}'
            return _http(429, body, b"Retry-After: %d\r\n" % math.ceil(wait))
        found = _CODE.search(request)
        code = b"" if found is None else found[1]
        is_new = self.used is None or code not in self.used
        if self.used is not None:
            self.used.add(code)
        self.counts["issued" if is_new else "refused"] += 1
        if self.log is not None:
            os.write(self.log, (b"issued " if is_new else b"refused ") + code + b"\n")
        if not is_new:
            return _http(403, b'{"error": {"code": 403, "message": "Invalid code or code_verifier"}}')
        return _http(200, b'{"key": "sk-or-v1-%s", "user_id": "user_1"}' % hashlib.sha256(code).hexdigest().encode())

    def _throttle(self, rate: float) -> float | None:
        now = time.monotonic()
        self._tokens = min(rate, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        return (1 - self._tokens) / rate


def _http(status: int, body: bytes, headers: bytes = b"") -> bytes:
    return _ANSWER % (status, _REASONS[status], len(body), headers) + body


class _Connection(asyncio.Protocol):
    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            length = 0 if found is None else int(found[1])
            if len(rest) < length:
                return
            self._received = rest[length:]
            self._transport.write(self._stub.answer(head + rest[:length]))


async def serve(stub: Stub) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(stub), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class running:  # noqa: N801 - used like a function
    """The stub, in a process that ends with the block."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "tests.batch.stub", *arguments]

    def __enter__(self) -> Self:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(self._command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"

    @property
    def counts(self) -> dict[str, Any]:
        with urlopen(f"http://127.0.0.1:{self.port}/") as answer:
            counts: dict[str, Any] = json.load(answer)
        return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--forgetful", action="store_true")
    options = parser.parse_args()
    log = None if options.log is None else os.open(options.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    run(serve(Stub(options.rate, log, forgetful=options.forgetful)))


if __name__ == "__main__":
    main()
