from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode

from openrouter_async import OpenRouter, Request, Response, RetryPolicy, errors
from openrouter_async._http.chain import Handler
from openrouter_async.integrations.opentelemetry import OpenTelemetryMiddleware, redact_span
from tests.kit.clocks import FakeClock
from tests.kit.wire import BEARER, SECRET, Act, WireServer, code_of, drop, hang, status, verifier_of


@attrs.define
class Telemetry:
    """The spans and metrics that a program with OpenTelemetry's SDK receives."""

    spans: InMemorySpanExporter = attrs.field(factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = attrs.field(factory=InMemoryMetricReader)
    tracer_provider: TracerProvider = attrs.field(factory=lambda: TracerProvider(shutdown_on_exit=False))
    meter_provider: MeterProvider = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def middleware(self, **options: Any) -> OpenTelemetryMiddleware:
        return OpenTelemetryMiddleware(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options
        )

    @property
    def finished(self) -> tuple[ReadableSpan, ...]:
        return self.spans.get_finished_spans()

    def points(self) -> dict[str, list[Any]]:
        """The data points of each metric."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    seen = Telemetry()
    yield seen
    everything = "".join(span.to_json() for span in seen.finished) + repr(seen.points())
    assert SECRET not in everything
    seen.tracer_provider.shutdown()
    seen.meter_provider.shutdown()


async def exchange(
    telemetry: Telemetry, *script: Act, clock: FakeClock | None = None, propagate: bool = False, **options: Any
) -> WireServer:
    """Exchange one code against a server that follows a script."""
    clock = clock or FakeClock()
    async with WireServer(script) as server:
        async with OpenRouter(
            BEARER,
            base_url=server.base_url,
            middlewares=[telemetry.middleware(propagate=propagate)],
            clock=clock.clock,
            **options,
        ) as client:
            await client.oauth.exchange_auth_code_for_api_key(code=code_of(1), code_verifier=verifier_of(1))
    return server


async def test_telemetry_successful_call_is_one_span_named_by_its_operation(telemetry: Telemetry) -> None:
    server = await exchange(telemetry)

    (span,) = telemetry.finished
    assert (span.name, span.kind, span.status.status_code) == (
        "exchangeAuthCodeForAPIKey",
        SpanKind.INTERNAL,
        StatusCode.UNSET,
    )
    assert span.attributes == {
        "openrouter.operation": "exchangeAuthCodeForAPIKey",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "http.request.method": "POST",
        "url.path": "/api/v1/auth/keys",
        "http.response.status_code": 200,
        "http.request.resend_count": 0,
    }
    assert span.events == ()
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "openrouter_async"


async def test_telemetry_failed_attempt_is_an_event_at_its_time(telemetry: Telemetry) -> None:
    await exchange(telemetry, drop(after=False), status(503))

    (span,) = telemetry.finished
    assert [event.name for event in span.events] == ["openrouter.attempt_failed"] * 2
    assert [dict(event.attributes or {}) for event in span.events] == [
        {
            "openrouter.attempt": 1,
            "openrouter.outcome": "unknown",
            "openrouter.wait": 0.25,
            "error.type": "TransportError",
        },
        {"openrouter.attempt": 2, "openrouter.outcome": "unknown", "openrouter.wait": 0.5, "error.type": "503"},
    ]
    assert span.start_time is not None
    # The clock of the test moves by the waits alone.
    assert [event.timestamp - span.start_time for event in span.events] == [0, 250_000_000]
    assert (span.attributes or {})["http.request.resend_count"] == 2
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("script", "error", "attributes"),
    [
        (
            [status(403, message="Invalid code")],
            errors.ForbiddenResponseError,
            {"error.type": "403", "http.response.status_code": 403, "openrouter.outcome": "refused"},
        ),
        (
            [status(500)] * 4,
            errors.InternalServerResponseError,
            {"error.type": "500", "http.request.resend_count": 3, "openrouter.outcome": "unknown"},
        ),
        (
            [drop(after=False)] * 4,
            errors.TransportError,
            {"error.type": "TransportError", "http.request.resend_count": 3, "openrouter.outcome": "unknown"},
        ),
    ],
    ids=["refused", "broken", "dropped"],
)
async def test_telemetry_failed_call_records_its_error_and_outcome(
    telemetry: Telemetry, script: list[Act], error: type[Exception], attributes: dict[str, object]
) -> None:
    with pytest.raises(error):
        await exchange(telemetry, *script)

    (span,) = telemetry.finished
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.attributes is not None
    assert {name: span.attributes[name] for name in attributes} == attributes


async def test_telemetry_cancelled_call_ends_its_span(telemetry: Telemetry) -> None:
    reached = asyncio.Event()

    async def never(request: Request, call_next: Handler) -> Response:
        reached.set()
        await asyncio.Event().wait()
        return await call_next(request)

    call = asyncio.ensure_future(exchange(telemetry, attempt_middlewares=[never]))
    await reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    (span,) = telemetry.finished
    assert (span.attributes or {})["error.type"] == "CancelledError"
    assert telemetry.points()["openrouter.client.active_calls"][0].value == 0


async def test_telemetry_metrics_record_duration_attempts_retries_and_in_flight(telemetry: Telemetry) -> None:
    server = await exchange(telemetry, status(429), hang(after=False), timeout=0.5)

    points = telemetry.points()
    common = {
        "openrouter.operation": "exchangeAuthCodeForAPIKey",
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    (duration,) = points["openrouter.client.call.duration"]
    assert duration.attributes == common | {"http.response.status_code": 200}
    assert (duration.count, duration.sum >= 0.5) == (1, True)
    (attempts,) = points["openrouter.client.call.attempts"]
    assert (attempts.count, attempts.sum) == (1, 3)
    assert {point.attributes["error.type"]: point.value for point in points["openrouter.client.retries"]} == {
        "429": 1,
        "RequestTimeoutError": 1,
    }
    (active,) = points["openrouter.client.active_calls"]
    assert (active.attributes, active.value) == (common, 0)
    (wait,) = points["openrouter.client.connection.wait"]
    assert (wait.count, 0 < wait.sum < 5) == (1, True)


async def test_telemetry_trace_context_is_sent_only_when_asked_for(telemetry: Telemetry) -> None:
    silent = await exchange(telemetry)
    telling = await exchange(telemetry, propagate=True)

    assert b"traceparent" not in silent.requests[0].head.lower()
    span = telemetry.finished[1]
    assert span.context is not None
    assert (
        f"traceparent: 00-{span.context.trace_id:032x}-{span.context.span_id:016x}".encode() in telling.requests[0].head
    )


async def test_telemetry_beside_aiohttp_instrumentation_counts_nothing_twice(telemetry: Telemetry) -> None:
    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    try:
        await exchange(telemetry, status(503))
    finally:
        instrumentor.uninstrument()

    *requests, call = telemetry.finished
    assert [span.kind for span in requests] == [SpanKind.CLIENT] * 2
    assert call.context is not None
    assert [span.parent.span_id if span.parent else None for span in requests] == [call.context.span_id] * 2
    points = telemetry.points()
    ours = {name for name in points if name.startswith("openrouter.")}
    (theirs,) = set(points) - ours
    assert sum(point.count for point in points[theirs]) == 2
    assert sum(point.count for point in points["openrouter.client.call.duration"]) == 1


async def test_telemetry_call_span_is_a_child_of_the_callers_span(telemetry: Telemetry) -> None:
    tracer = telemetry.tracer_provider.get_tracer("app")
    with tracer.start_as_current_span("the app's own") as parent:
        await exchange(telemetry)
    (call, _) = telemetry.finished
    assert call.parent is not None
    assert call.parent.span_id == parent.get_span_context().span_id


async def test_telemetry_without_retries_records_one_attempt(telemetry: Telemetry) -> None:
    with pytest.raises(errors.TransportError):
        await exchange(telemetry, drop(after=False), retry=RetryPolicy.none())
    (attempts,) = telemetry.points()["openrouter.client.call.attempts"]
    assert (attempts.count, attempts.sum) == (1, 1)


def test_redact_span_masks_urls_of_callbacks() -> None:
    state, code = "s" * 43, "auth_code_c0ffee"
    span = (
        TracerProvider(shutdown_on_exit=False)
        .get_tracer("any")
        .start_span(
            "GET /callback",
            attributes={
                "http.url": f"https://app.example/callback/{state}?code={code}",
                "http.target": f"/callback?code={code}&state={state}",
                "url.query": f"code={code}&state={state}",
                "url.path": f"/callback/{state}",
                "http.status_code": 303,
                "http.route": "/callback/{state}",
            },
        )
    )
    redact_span(span, {"type": "http"})
    assert isinstance(span, ReadableSpan)
    assert span.attributes == {
        "http.url": "https://app.example/callback/***?code=***",
        "http.target": "/callback?code=***&state=***",
        "url.query": "code=***&state=***",
        "url.path": "/callback/***",
        "http.status_code": 303,
        "http.route": "/callback/{state}",
    }
    redact_span(INVALID_SPAN)
