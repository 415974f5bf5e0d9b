"""Listening on the loopback interface, in both families of addresses."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from openrouter_async.login.errors import LoopbackUnavailableError

_ATTEMPTS: Final = 16


def listen(port: int) -> list[socket.socket]:
    """Listen on a port of 127.0.0.1 and, where the computer has it, the same one of ::1.

    Raises:
        LoopbackUnavailableError: The port is in use, or may not be used.
    """
    reason = ""
    for _ in range(1 if port else _ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            sockets.append(_bind(socket.AF_INET, "127.0.0.1", port))
            sockets.append(_bind(socket.AF_INET6, "::1", sockets[0].getsockname()[1]))
        except OSError as failure:
            if sockets and failure.errno != errno.EADDRINUSE:
                # No IPv6 here, so nobody can come by it.
                return sockets
            reason = "in use" if failure.errno == errno.EADDRINUSE else f"not to be had ({failure.strerror})"
            for listener in sockets:
                listener.close()
        else:
            return sockets
    raise LoopbackUnavailableError(f"the port is {reason}" if port else "no port is free on both 127.0.0.1 and ::1")


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        if os.name == "posix":  # pragma: no branch - the tests run on POSIX
            # On Windows the same option would let another program take the port away.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
