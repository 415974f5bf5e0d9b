"""The fake as an aiohttp application, which serves its operations and pages over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs
from aiohttp import web

from openrouter_async.testing import _html as html
from openrouter_async.testing._api import API, Operation
from openrouter_async.testing._browser import Pages
from openrouter_async.testing._clock import MovableClock
from openrouter_async.testing._description import DESCRIPTION
from openrouter_async.testing._dialects import Answer, error
from openrouter_async.testing._misbehaviour import apply_fault
from openrouter_async.testing._records import BoundedHistory, RecordedRequest
from openrouter_async.testing._scripts import FaultQueue
from openrouter_async.testing.faults import Fault, FaultKind

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_API: Final = "/api/v1"
# Recorded requests stay in memory, so their size is bounded; no request of this API needs more.
_LARGEST: Final = 65_536
_UNANSWERED: Final = frozenset({FaultKind.DROP, FaultKind.HANG})


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
        app = web.Application(client_max_size=_LARGEST, middlewares=[_explain])
        for path, (name, method, operation) in self.api.routes.items():
            app.router.add_route("*", _API + path, self._endpoint(name, method, operation))
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
        response = await apply_fault(fault, request, answer, clock=self.clock, closing=self._closing)
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
        text = html.message(refused.reason, "There is nothing here for such a request.")
        return web.Response(
            status=refused.status, text=text, content_type="text/html", headers={**html.HEADERS, **headers}
        )


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
