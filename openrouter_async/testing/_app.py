"""The fake as an aiohttp application, which serves its operations and pages over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs
from aiohttp import web

from openrouter_async.errors import RequestValidationError
from openrouter_async.testing._api import API, Operation
from openrouter_async.testing._authority import FAULT_PREFIX
from openrouter_async.testing._clock import MovableClock
from openrouter_async.testing._description import DESCRIPTION
from openrouter_async.testing._dialects import Answer, error
from openrouter_async.testing._html import HEADERS, message_page
from openrouter_async.testing._pages import Pages
from openrouter_async.testing._records import BoundedHistory, RecordedRequest
from openrouter_async.testing.faults import Fault, FaultKind

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_API: Final = "/api/v1"
# Recorded requests stay in memory, so their size is bounded; no request of this API needs more.
_MAX_BODY_SIZE: Final = 65_536
# A code that asks for a fault is remembered, to count its requests.
_MAX_CODES: Final = 10_000
_UNANSWERED: Final = frozenset({FaultKind.DROP, FaultKind.HANG})


class FaultQueue:
    """Faults for the next requests, one each, and for requests whose codes ask for one."""

    def __init__(self) -> None:
        self._faults: deque[Fault] = deque()
        self._met: OrderedDict[str, int] = OrderedDict()

    def add(self, *faults: Fault) -> None:
        """Append faults to the queue."""
        self._faults.extend(faults)

    def next(self, code: str | None = None) -> Fault | None:
        """Take the fault of the next request.

        Args:
            code: The code that the request redeems; None if it redeems none.

        Returns:
            The fault; None if the request has none.
        """
        if self._faults:
            fault = self._faults.popleft()
            if fault.count > 1:
                self._faults.appendleft(fault.times(fault.count - 1))
            return fault
        named = None if code is None else FAULT_PREFIX.match(code)
        return None if code is None or named is None else self._asked_for(code, named["spec"])

    def __len__(self) -> int:
        return sum(fault.count for fault in self._faults)

    def _asked_for(self, code: str, spec: str) -> Fault | None:
        try:
            fault = Fault.from_spec(spec)
        except RequestValidationError:
            # A misspelt fault must fail the test, not be ignored.
            return Fault.status(400, message="The code asks for an unknown fault")
        met = self._met.pop(code, 0)
        self._met[code] = met + 1
        if len(self._met) > _MAX_CODES:
            self._met.popitem(last=False)
        return fault if met < fault.count else None


@attrs.define(kw_only=True)
class Adapter:
    """Serves the operations and the pages.

    Attributes:
        api: The operations.
        pages: The pages.
        script: Assigns faults to requests.
        clock: The clock that delays are measured by.
        requests: The requests to the API.
    """

    api: API
    pages: Pages
    script: FaultQueue
    clock: MovableClock
    requests: BoundedHistory[RecordedRequest]
    _closing: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def make_app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=_MAX_BODY_SIZE, middlewares=[_explain])
        for path, (name, method, operation) in self.api.routes.items():
            app.router.add_route("*", _API + path, self._endpoint(name, method, self.api.with_refusals(operation)))
        app.router.add_get(f"{_API}/openapi.json", _describe)
        app.router.add_route("*", "/api/{path:.*}", self._nowhere)
        self.pages.add_routes(app)
        app.on_startup.append(self._open)
        app.on_shutdown.append(self._let_go)
        return app

    async def _open(self, _app: web.Application) -> None:
        # An asyncio.Event belongs to one loop, but this app may be started again in another loop.
        self._closing = asyncio.Event()

    async def _let_go(self, _app: web.Application) -> None:
        self._closing.set()

    def _endpoint(self, name: str, method: str, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            record = await self._record(request, name)
            refused = self.api.refuse_early(record, method)
            if refused is not None:
                return self._finish(record, name, refused)
            fault = self.script.next(_code_in(record) if name == "exchange" else None)
            if fault is None:
                return self._finish(record, name, operation(record))
            return await self._fail(request, record, name, operation, fault)

        return handle

    async def _fail(
        self, request: web.Request, record: RecordedRequest, name: str, operation: Operation, fault: Fault
    ) -> web.StreamResponse:
        self.api.counters[f"fault {fault.kind}"] += 1
        answer = _respond(operation(record)) if fault.after else None
        response = await _apply_fault(fault, request, answer, clock=self.clock, closing=self._closing)
        if fault.kind not in _UNANSWERED:
            self._note(record, name, response.status)
        return response

    async def _nowhere(self, request: web.Request) -> web.StreamResponse:
        return self._finish(await self._record(request, "other"), "other", error(404, "Not Found"))

    async def _record(self, request: web.Request, name: str) -> RecordedRequest:
        record = RecordedRequest(method=request.method, path=request.path, headers=request.headers)
        self.requests.add(record)
        self.api.counters[name] += 1
        try:
            record.content = await request.read()
        except web.HTTPRequestEntityTooLarge:
            self._note(record, name, 413)
            raise
        with contextlib.suppress(ValueError, RecursionError):
            record.body = json.loads(record.content)
        return record

    def _finish(self, record: RecordedRequest, name: str, answer: Answer) -> web.Response:
        self._note(record, name, answer.status)
        return _respond(answer)

    def _note(self, record: RecordedRequest, name: str, status: int) -> None:
        record.status = status
        self.api.counters[f"{name} {status}"] += 1


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as refused:
        headers = {name: value for name, value in refused.headers.items() if name == "Allow"}
        if "/api/" in request.path:
            return _respond(error(refused.status, refused.reason, headers))
        text = message_page(refused.reason, "There is nothing here for such a request.")
        return web.Response(status=refused.status, text=text, content_type="text/html", headers={**HEADERS, **headers})


async def _describe(request: web.Request) -> web.Response:
    here = str(request.url.with_query(None)).removesuffix("/openapi.json")
    return web.json_response({**DESCRIPTION, "servers": [{"url": here}]})


def _respond(answer: Answer) -> web.Response:
    if answer.events is not None:
        lines = [json.dumps(event) for event in answer.events]
        text = "".join(f"data: {line}\n\n" for line in (*lines, "[DONE]"))
        return web.Response(status=answer.status, text=text, content_type="text/event-stream", headers=answer.headers)
    return web.json_response(answer.body, status=answer.status, headers=answer.headers)


def _code_in(record: RecordedRequest) -> str | None:
    code: Any = record.body.get("code") if isinstance(record.body, Mapping) else None
    return code if isinstance(code, str) else None


async def _apply_fault(
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
