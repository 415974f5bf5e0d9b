"""The user at the other end of a loopback connection, which only Linux tells."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def trusted_uids() -> frozenset[int]:
    """Return the users that may finish this user's login; root is one, because port forwarders run as root."""
    return frozenset({0, os.geteuid()})


def is_foreign(peer: tuple[str, int], port: int) -> bool:
    """Return whether a connection comes from another user of this computer.

    Args:
        peer: The address and port of the other end.
        port: The port of this end.

    Returns:
        Always False on other systems than Linux, which do not tell.
    """
    if not sys.platform.startswith("linux"):
        return False
    local, remote = f"{_to_hex(peer[0])}:{peer[1]:04X}", f":{port:04X}"
    sees_connections = False
    for fields in _rows():
        sees_connections = sees_connections or fields[1].endswith(remote)
        if fields[1] == local and fields[2].endswith(remote):
            # A socket that its process has closed has no inode, and then its uid says nothing.
            return fields[9] == "0" or int(fields[7]) not in trusted_uids()
    # Another user could have reset the connection, after the request, to vanish from the table.
    return sees_connections


def _rows() -> Iterator[list[str]]:
    for table in _TABLES:
        with contextlib.suppress(OSError):
            yield from (line.split() for line in table.read_text().splitlines()[1:])


def _to_hex(address: str) -> str:
    # The kernel prints each 32-bit word of the address in the byte order of the machine.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address.partition("%")[0])
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
