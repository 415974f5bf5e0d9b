"""Spans and metrics by OpenTelemetry; needs the extra ``otel``.

::

    async with OpenRouter(middlewares=[OpenTelemetryMiddleware()]) as client:
        ...

The names follow OpenTelemetry's semantic conventions for HTTP. No recorded value is a secret, and every attribute
has a low cardinality.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import attrs

from openrouter_async._http.chain import Handler, Request, Response
from openrouter_async._http.responses import outcome_of
from openrouter_async._values.version import __version__
from openrouter_async.errors import APIError, Attempt, OpenRouterError
from openrouter_async.redaction._text import redact_text

try:
    from opentelemetry import metrics, propagate, trace
except ImportError as missing:
    raise ImportError("telemetry needs OpenTelemetry: pip install 'openrouter-async[otel]'") from missing

__all__ = ["OpenTelemetryMiddleware", "redact_span"]

_SCOPE: Final = "openrouter_async"
_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
# The buckets that the conventions recommend for http.client.request.duration.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_TRIES: Final = (1, 2, 3, 4, 5, 8)


def redact_span(span: trace.Span, *_: object) -> None:
    """Mask codes and states in the attributes of a span of a web framework's instrumentation.

    Those record the URL of the callback. Give it to the instrumentation as its hook, as in
    ``FastAPIInstrumentor.instrument_app(app, server_request_hook=redact_span)``, or call it in the ``on_start`` of a
    span processor.

    Args:
        span: A span that is recording.
        _: The other arguments of a hook.
    """
    attributes: Mapping[str, object] = getattr(span, "attributes", None) or {}
    for name, value in dict(attributes).items():
        if isinstance(value, str) and (masked := redact_text(value)) != value:
            span.set_attribute(name, masked)


class OpenTelemetryMiddleware:
    """Record a span and metrics for each call, as one of the ``middlewares`` of a client.

    A call includes its retries. Its span is internal, named by the operation, and has an
    event for each attempt that failed. The HTTP requests below it are for
    ``opentelemetry-instrumentation-aiohttp-client`` to record, as client spans and ``http.client.request.duration``:
    the two use different names, so nothing is counted twice.

    Metrics, with the attributes ``openrouter.operation``, ``server.address``, ``server.port``,
    ``http.response.status_code`` and ``error.type``:

    - ``openrouter.client.call.duration``: a histogram, in seconds;
    - ``openrouter.client.call.attempts``: a histogram of requests for a call;
    - ``openrouter.client.retries``: a counter, by the ``error.type`` of the failed attempt;
    - ``openrouter.client.active_calls``: calls under way;
    - ``openrouter.client.connection.wait``: a histogram of the seconds until a request could be written: waiting for a
      connection of the pool, or for a new one.

    Args:
        tracer_provider: The provider of the tracer; by default the global one.
        meter_provider: The provider of the meter; by default the global one.
        propagate: Whether the trace context is sent to the server, by the global propagator. It is another company's
            server, so by default nothing is sent.

    See Also:
        https://opentelemetry.io/docs/specs/semconv/http/
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        propagate: bool = False,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider, _SCHEMA_URL)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider, _SCHEMA_URL)
        self._duration = meter.create_histogram(
            "openrouter.client.call.duration",
            unit="s",
            description="How long callers waited, retries included.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._attempts = meter.create_histogram(
            "openrouter.client.call.attempts",
            unit="{request}",
            description="How many requests a call took.",
            explicit_bucket_boundaries_advisory=_TRIES,
        )
        self._retries = meter.create_counter(
            "openrouter.client.retries", unit="{request}", description="Requests that were tried again."
        )
        self._active = meter.create_up_down_counter(
            "openrouter.client.active_calls", unit="{call}", description="Calls under way."
        )
        self._wait = meter.create_histogram(
            "openrouter.client.connection.wait",
            unit="s",
            description="How long requests waited for a connection.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._propagate = propagate

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        """Send a request, and record its outcome."""
        common: dict[str, Any] = {
            "openrouter.operation": request.operation,
            "server.address": request.url.host or "",
            "server.port": request.url.port or 0,
        }
        started = time.perf_counter()
        started_at = time.time_ns()
        self._active.add(1, common)
        span = self._tracer.start_span(
            request.operation,
            start_time=started_at,
            attributes=common | {"http.request.method": request.method, "url.path": request.url.raw_path},
        )
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                response = await call_next(self._with_context(request))
        except BaseException as failure:
            self._record(span, _End.of_failure(failure), common, started, started_at)
            raise
        self._wait.record(response.waited, common)
        self._record(span, _End.of_response(response), common, started, started_at)
        return response

    def _record(self, span: trace.Span, end: _End, common: dict[str, Any], started: float, started_at: int) -> None:
        self._active.add(-1, common)
        attributes = common | end.attributes
        self._duration.record(time.perf_counter() - started, attributes)
        self._attempts.record(end.attempts, attributes)
        for attempt in end.history:
            self._retries.add(1, common | _reason(attempt.error))
        _finish(span, end, started_at)

    def _with_context(self, request: Request) -> Request:
        if not self._propagate:
            return request
        context: dict[str, str] = {}
        propagate.inject(context)
        return attrs.evolve(request, headers=dict(request.headers) | context)


@attrs.frozen(kw_only=True)
class _End:
    """The end of a call.

    Attributes:
        attributes: The attributes of the conventions.
        attempts: The number of requests.
        history: The failed attempts that were followed by another.
        outcome: The outcome of a failed call; None if the call succeeded.
    """

    attributes: dict[str, Any] = attrs.field(factory=dict)
    attempts: int = 0
    history: tuple[Attempt, ...] = ()
    outcome: str | None = None

    @classmethod
    def of_response(cls, response: Response) -> _End:
        failed = response.status_code >= 300
        return cls(
            attributes={"http.response.status_code": response.status_code}
            | ({"error.type": str(response.status_code)} if failed else {}),
            attempts=len(response.history) + 1,
            history=response.history,
            outcome=outcome_of(response.status_code) if failed else None,
        )

    @classmethod
    def of_failure(cls, failure: BaseException) -> _End:
        if not isinstance(failure, OpenRouterError):
            return cls(attributes=_reason(failure), outcome="cancelled")
        return cls(
            attributes=_reason(failure),
            attempts=failure.attempts + len(failure.history),
            history=failure.history,
            outcome=failure.outcome,
        )


def _reason(failure: BaseException) -> dict[str, Any]:
    """Return the ``error.type``: a status, or the class of an exception, never its text."""
    if isinstance(failure, APIError):
        return {"error.type": str(failure.status_code)}
    return {"error.type": type(failure).__qualname__}


def _finish(span: trace.Span, end: _End, started_at: int) -> None:
    moment = started_at
    for attempt in end.history:
        moment += int(attempt.elapsed * 1e9)
        span.add_event(
            "openrouter.attempt_failed",
            {
                "openrouter.attempt": attempt.number,
                "openrouter.outcome": attempt.error.outcome.value,
                "openrouter.wait": attempt.wait,
                **_reason(attempt.error),
            },
            timestamp=moment,
        )
        moment += int(attempt.wait * 1e9)
    span.set_attributes(end.attributes | {"http.request.resend_count": len(end.history)})
    if end.outcome is not None:
        span.set_attribute("openrouter.outcome", end.outcome)
        span.set_status(trace.StatusCode.ERROR)
    span.end()
