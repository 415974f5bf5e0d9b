"""Faults on a real connection."""

from __future__ import annotations

import asyncio
from typing import assert_never

from aiohttp import web

from openrouter_async.testing.clock import MovableClock
from openrouter_async.testing.faults import Fault, FaultKind


async def misbehave(
    fault: Fault, request: web.Request, answer: web.Response | None, *, clock: MovableClock, closing: asyncio.Event
) -> web.StreamResponse:
    """Give the request a fault instead of its answer.

    Args:
        fault: It.
        request: The request.
        answer: What the right answer is; None when the request was not carried out.
        clock: What delays are measured by.
        closing: Set when the server goes, so that what hangs lets go.
    """
    match fault.kind:
        case FaultKind.STATUS:
            return web.Response(status=fault.status_code, headers=fault.headers, body=fault.body)
        case FaultKind.DELAY:
            await clock.sleep(fault.seconds)
        case FaultKind.HANG:
            await closing.wait()
            _close(request)
        case FaultKind.DROP:
            _close(request)
        case FaultKind.CUT:
            if answer is not None:
                return await _cut(request, answer)
            _close(request)
        case _:  # pragma: no cover
            assert_never(fault.kind)
    return web.Response() if answer is None else answer


async def _cut(request: web.Request, answer: web.Response) -> web.StreamResponse:
    body = answer.body
    content = body if isinstance(body, bytes) else b""
    half = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
    half.content_length = len(content)
    await half.prepare(request)
    await half.write(content[: len(content) // 2])
    _close(request)
    return half


def _close(request: web.Request) -> None:
    # What is sent on a closed connection goes nowhere; aiohttp knows that from clients that left.
    if request.transport is not None:
        request.transport.close()
