"""Inputs made from a corpus by chance, the same ones for the same seed."""

from __future__ import annotations

import gc
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

CORPUS: Final = Path(__file__).parent / "corpus"
MAX_CPU_PER_KIB: Final = 0.2
"""Seconds of CPU for each KiB of an input, many times what it takes; quadratic time would be seconds."""

# The random part of an API key, in one byte a character or in two.
_KEY: Final = re.compile(rb"(?:[0-9a-f]\0){64}|[0-9a-f]{64}")

_INTERESTING: Final = (
    *(b"\0", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb\xbf"),
    *(b"%00", b"%0d%0a", b"%ff", b"%", b"+", b"&", b"&&", b"=", b";", b"#", b"?", b"//", b"\\", b"..", b"{state}"),
    *(b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-0", b"[", b"{", b'"', b"\\u0000", b"\\ud800", b"[" * 2000),
    *(b"18446744073709551616", b"-1", b"9" * 400, b"0x10", b"chunked", b"gzip", b"deflate", b"br", b"identity"),
    *(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"Retry-After: ", b"Connection: close\r\n", b"Set-Cookie: a=b\r\n", b": ", b" "),
    *(b"code=", b"state=", b"error=", b"access_denied", b"https://", b"key", b"user_id", b"error", b"message"),
)


def read_corpus(name: str) -> list[bytes]:
    """The inputs of a folder of the corpus, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def _flip(chance: random.Random, data: bytearray, _other: bytes) -> None:
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _insert(chance: random.Random, data: bytearray, _other: bytes) -> None:
    at = chance.randrange(len(data))
    data[at:at] = chance.choice(_INTERESTING)


def _overwrite(chance: random.Random, data: bytearray, _other: bytes) -> None:
    piece = chance.choice(_INTERESTING)
    at = chance.randrange(len(data))
    data[at : at + len(piece)] = piece


def _delete(chance: random.Random, data: bytearray, _other: bytes) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.randint(1, 40)]


def _repeat(chance: random.Random, data: bytearray, _other: bytes) -> None:
    at = chance.randrange(len(data))
    piece = data[at : at + chance.randint(1, 60)]
    data[at:at] = piece * chance.randint(1, 20)


def _cut(chance: random.Random, data: bytearray, _other: bytes) -> None:
    del data[chance.randrange(len(data)) :]


def _splice(chance: random.Random, data: bytearray, other: bytes) -> None:
    data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]


def _noise(chance: random.Random, data: bytearray, _other: bytes) -> None:
    at = chance.randrange(len(data))
    data[at:at] = chance.randbytes(chance.randint(1, 30))


_MUTATIONS: Final[Sequence[Callable[[random.Random, bytearray, bytes], None]]] = (
    *(_flip, _insert, _overwrite, _delete, _repeat, _cut, _splice, _noise),
)


def mutate(corpus: Sequence[bytes], seed: int) -> bytes:
    """Return one input: an entry of the corpus after some changes, occasionally without any."""
    chance = random.Random(seed)
    data = bytearray(_renew_key(chance, chance.choice(corpus)))
    for _ in range(chance.randint(0, 3)):
        if data:
            chance.choice(_MUTATIONS)(chance, data, _renew_key(chance, chance.choice(corpus)))
    return bytes(data)


def _renew_key(chance: random.Random, data: bytes) -> bytes:
    # No two inputs have a key in common, so that the key of one cannot appear in the error of another.
    key = chance.randbytes(32).hex()
    return _KEY.sub(lambda found: key.encode("utf-16-le" if b"\0" in found[0] else "ascii"), data)


class Stopwatch:
    """Measures the CPU time of this thread in a block, during which no garbage is collected.

    A collection may fall into any block, and walks all objects of the tests.
    """

    seconds = 0.0

    def __enter__(self) -> Self:
        gc.disable()
        self._started = time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.thread_time() - self._started
        gc.enable()
