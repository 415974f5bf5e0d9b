"""Execution of faults on a real connection."""

from __future__ import annotations

import asyncio

from aiohttp import web

from openrouter_async.testing._clock import MovableClock
from openrouter_async.testing.faults import Fault, FaultKind


async def apply_fault(
    fault: Fault, request: web.Request, answer: web.Response | None, *, clock: MovableClock, closing: asyncio.Event
) -> web.StreamResponse:
    """Apply a fault to a request instead of sending its answer.

    Args:
        fault: The fault.
        request: The request.
        answer: The right answer; None if the request was not carried out.
        clock: The clock that delays are measured by.
        closing: Set when the server stops, so that hanging requests end.
    """
    if fault.kind is FaultKind.STATUS:
        return web.Response(status=fault.status_code, headers=fault.headers, body=fault.body)
    if fault.kind is FaultKind.DELAY and answer is not None:
        await clock.sleep(fault.seconds)
        return answer
    if fault.kind is FaultKind.CUT and answer is not None:
        return await _cut(request, answer)
    if fault.kind is FaultKind.HANG:
        await closing.wait()
    _close(request)
    # The connection is closed, so aiohttp discards this response, as if the client had left.
    return web.Response()


async def _cut(request: web.Request, answer: web.Response) -> web.StreamResponse:
    body = answer.body if isinstance(answer.body, bytes) else b""
    half = web.StreamResponse(status=answer.status, headers=answer.headers)
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    _close(request)
    return half


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
