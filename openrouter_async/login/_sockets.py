"""Listening on the loopback interface, in both families of addresses."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Final

from openrouter_async.login.errors import LoopbackUnavailableError

MAX_ATTEMPTS: Final = 16


def listen(port: int) -> list[socket.socket]:
    """Listen on a port of 127.0.0.1 and, where the computer has it, the same one of ::1.

    Raises:
        LoopbackUnavailableError: The port is in use, or not allowed.
    """
    reason = ""
    for _ in range(1 if port else MAX_ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            sockets.append(_bind(socket.AF_INET, "127.0.0.1", port))
            sockets.append(_bind(socket.AF_INET6, "::1", sockets[0].getsockname()[1]))
        except OSError as failure:
            if sockets and failure.errno != errno.EADDRINUSE:
                # This computer has no IPv6, so no browser will use it.
                return sockets
            reason = _describe(failure)
            for listener in sockets:
                listener.close()
        else:
            return sockets
    raise LoopbackUnavailableError(f"the port is {reason}" if port else "no port is free on both 127.0.0.1 and ::1")


def _describe(failure: OSError) -> str:
    reason = "in use" if failure.errno == errno.EADDRINUSE else f"not available ({failure.strerror})"
    if failure.errno == errno.EACCES and sys.platform == "win32":  # pragma: no cover - Windows reserves ranges
        reason += "; `netsh int ipv4 show excludedportrange tcp` lists the reserved ones"
    return reason


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        if os.name == "posix":  # pragma: no branch - the tests run on POSIX
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:  # pragma: no cover
            # On Windows any program may bind a port that is in use, with SO_REUSEADDR, unless this forbids it.
            listener.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE"), 1)  # noqa: B009
        listener.bind((host, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
