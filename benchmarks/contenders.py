"""The clients by their names. Each is imported when it is asked for: its memory is part of the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from benchmarks.client import Contender


def _hand_written() -> Contender:
    from benchmarks.by_hand import HandWritten

    return Contender(HandWritten)


def _hand_written_on_uvloop() -> Contender:
    from benchmarks.by_hand import HandWritten

    return Contender(HandWritten, uvloop=True)


def _hand_tuned() -> Contender:
    from benchmarks.by_hand import HandTuned

    return Contender(HandTuned)


def _hand_tuned_with_orjson() -> Contender:
    import orjson

    from benchmarks.by_hand import HandTuned

    return Contender(lambda base_url, tls: HandTuned(base_url, tls, dumps=orjson.dumps, loads=orjson.loads))


def _bare() -> Contender:
    from benchmarks.by_hand import Bare

    return Contender(Bare)


def ours(*, middlewares: int = 0) -> Contender:
    """This library, with a number of middlewares that do nothing."""
    from benchmarks.ours import Ours

    return Contender(lambda base_url, tls: Ours(base_url, tls, middlewares=middlewares))


def _ours_with_six_middlewares() -> Contender:
    return ours(middlewares=6)


def _ours_on_uvloop() -> Contender:
    return attrs.evolve(ours(), uvloop=True)


def _ours_without_reuse() -> Contender:
    from benchmarks.ours import Ours

    return Contender(lambda base_url, tls: Ours(base_url, tls, reuse_connections=False))


def _official_sdk() -> Contender:
    from benchmarks.peers import OfficialSDK

    return Contender(OfficialSDK)


def _httpx() -> Contender:
    from benchmarks.peers import Httpx

    return Contender(Httpx)


def _pyreqwest() -> Contender:
    from benchmarks.peers_rust import Pyreqwest

    return Contender(Pyreqwest)


SIDE_BY_SIDE: Final[Mapping[str, Callable[[], Contender]]] = {
    "hand-written": _hand_written,
    "hand-written again": _hand_written,
    "ours": ours,
    "ours, uvloop": _ours_on_uvloop,
    "ours, 6 middlewares": _ours_with_six_middlewares,
    "hand-tuned": _hand_tuned,
    "hand-tuned, orjson": _hand_tuned_with_orjson,
    "hand-written, uvloop": _hand_written_on_uvloop,
    "bare protocol": _bare,
}
"""Those that share a process; "hand-written again" is the null control."""

CONTENDERS: Final[Mapping[str, Callable[[], Contender]]] = {
    **SIDE_BY_SIDE,
    "ours, no reuse of connections": _ours_without_reuse,
    "official SDK": _official_sdk,
    "httpx": _httpx,
    "pyreqwest": _pyreqwest,
}
"""All of them."""


def installed(makers: Mapping[str, Callable[[], Contender]]) -> dict[str, Contender]:
    """Return the clients, without the one that needs orjson where there is none, as on the newest Python."""
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except ModuleNotFoundError as missing:
            if missing.name != "orjson":
                raise
    return made
