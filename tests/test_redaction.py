from __future__ import annotations

import asyncio
import io
import logging
import time
from types import MappingProxyType
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web
from hypercorn.logging import AccessLogAtoms
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.logging import AccessFormatter
from yarl import URL

from openrouter_async import Response, errors
from openrouter_async._http.responses import error_from_response
from openrouter_async._values.clock import SYSTEM_CLOCK
from openrouter_async.redaction import SecretFilter
from openrouter_async.redaction._masks import MASK, mask_key, mask_optional, scrub
from openrouter_async.redaction._text import redact_text
from tests.kit.requests import make_request
from tests.support import PATIENCE

CODE = "auth_code_c0ffee"
STATE = "s" * 43
KEY = "sk-or-v1-" + "a" * 64
HEX = "0e6f44a47a05f1dad2ad7e88c4c1d6b77688157716fb1a5271146f7464951c96"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"GET /callback?code=auth_code_c0ffee&state={STATE} HTTP/1.1", "GET /callback?code=***&state=*** HTTP/1.1"),
        ("/callback?error=access_denied", "/callback?error=access_denied"),
        (f"GET /callback/{STATE}?code={CODE} HTTP/1.1", "GET /callback/***?code=*** HTTP/1.1"),
        (f"/callback/{STATE}", "/callback/***"),
        ("/auth?to=%2Fa%3Fcode%3Dabc%26x%3D1", "/auth?to=%2Fa%3Fcode%3D***%26x%3D1"),
        ('{"code": "abc", "code_verifier": "def"}', '{"code": "***", "code_verifier": "***"}'),
        ("{'key': 'sk-or-v1-abc', 'user_id': 'user_1'}", "{'key': '***', 'user_id': 'user_1'}"),
        ("Authorization: Bearer sk-or-v1-abc", "Authorization: Bearer ***"),
        (f"the key is {KEY}.", "the key is ***."),
        ("a status code of 403, in a state of alarm", "a status code of 403, in a state of alarm"),
        ("exit_code=1", "exit_code=1"),
        ("/shops?state=CA&x=1", "/shops?state=CA&x=1"),
        ("{'state': 'pending', 'id': 1}", "{'state': 'pending', 'id': 1}"),
        (f"?%63ode={CODE}&%73%74ate={STATE}", "?%63ode=***&%73%74ate=***"),
        (f"Callback(state='{STATE}', code='{CODE}')", "Callback(state='***', code='***')"),
        (f"code=b'{CODE}'", "code=b'***'"),
        (f'"{{\\"code\\": \\"{CODE}\\", \\"n\\": 1}}"', '"{\\"code\\": \\"***\\", \\"n\\": 1}"'),
        (f"[('code', '{CODE}'), ('state', '{STATE}')]", "[('code', '***'), ('state', '***')]"),
        (f"{{'query_string': b'code={CODE}&state={STATE}'}}", "{'query_string': b'code=***&state=***'}"),
        (f"a=b; __Host-openrouter-browser-0a1b={STATE}; c=d", "a=b; __Host-openrouter-browser-0a1b=***; c=d"),
        (f"openrouter-login-0a1b=gAAAA{STATE}", "openrouter-login-0a1b=***"),
        (f"/start ticket-{'t' * 32}.", "/start ticket-***."),
    ],
)  # fmt: skip
def test_redact_masks_secrets_and_nothing_else(text: str, masked: str) -> None:
    assert redact_text(text) == masked


@given(text=st.text())
def test_redact_is_idempotent(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


@given(code=st.text(min_size=1, alphabet=st.characters(exclude_characters="&\"'<>", exclude_categories=["Z", "C"])))
def test_redact_code_in_a_query_is_masked(code: str) -> None:
    assert redact_text(f"GET /callback?x=1&code={code}&y=2 HTTP/1.1") == f"GET /callback?x=1&code={MASK}&y=2 HTTP/1.1"


def test_secret_filter_with_paths_keeps_codes_of_other_paths() -> None:
    paths = ["/callback"]
    for text in ("GET /shop?code=SAVE10&x=1 HTTP/1.1", f"https://other.example/login?state={STATE}"):
        assert redact_text(text, paths) == text
    for start in (
        "GET /callback",
        "GET https://app.example/mounted/callback",
        '"GET /callback/x',
        "",
        "GET %2Fcallback",
    ):
        assert redact_text(f"{start}?code={CODE} HTTP/1.1", paths) == f"{start}?code={MASK} HTTP/1.1"
    assert redact_text(f"code={CODE}", paths) == "code=***"


@attrs.frozen
class Log:
    """A logger of its own, and the output of its handler."""

    logger: logging.Logger
    handler: logging.Handler
    stream: io.StringIO

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def log() -> Log:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(SecretFilter())
    handler.setFormatter(logging.Formatter("%(message)s %(extra_field)s", defaults={"extra_field": "-"}))
    logger = logging.Logger("of the test")
    logger.addHandler(handler)
    return Log(logger, handler, stream)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("at " + f"/callback?code={CODE}", ()),
        ("at %s", (f"/callback?code={CODE}",)),
        ("at %(url)s", ({"url": f"/callback?code={CODE}"},)),
        ("at %s", (URL(f"https://app.example/callback?code={CODE}"),)),
        ("at /callback?code=%s", (CODE,)),
        (ValueError(f"code={CODE}"), ()),
        ("%d of %s", (3, {"code": CODE})),
    ],
)
def test_secret_filter_masks_codes_in_any_form_of_record(log: Log, message: object, arguments: Any) -> None:
    log.logger.error(message, *arguments)
    assert CODE not in log.text
    assert MASK in log.text


def test_secret_filter_masks_extra_fields_and_tracebacks(log: Log) -> None:
    try:
        raise ValueError(f"no key in {KEY}")
    except ValueError:
        log.logger.exception("failed", extra={"extra_field": {"path": [f"code={CODE}"], "url": f"/?code={CODE}"}})
    assert "Traceback" in log.text
    assert "ValueError: no key in ***" in log.text
    assert "'url': '/?code=***'" in log.text
    assert KEY not in log.text
    assert CODE not in log.text


def test_secret_filter_masks_fields_by_name(log: Log) -> None:
    log.logger.warning("failed", extra={"extra_field": {"code": CODE, "headers": {"Authorization": "x y"}, "n": 1}})
    assert log.text == "failed {'code': '***', 'headers': {'Authorization': '***'}, 'n': 1}\n"


def test_secret_filter_leaves_mismatched_arguments_to_the_handler() -> None:
    record = logging.makeLogRecord({"msg": "%d", "args": (f"code={CODE}",)})
    assert SecretFilter().filter(record)
    assert (record.msg, record.args) == ("%d", ("code=***",))


def test_secret_filter_dict_message_stays_a_dict() -> None:
    record = logging.makeLogRecord({"msg": {"event": f"at ?code={CODE}", "code": CODE, "raw": f"code={CODE}".encode()}})
    assert SecretFilter().filter(record)
    assert record.msg == {"event": "at ?code=***", "code": "***", "raw": b"code=***"}


def record_of(message: str) -> logging.LogRecord:
    try:
        raise ValueError(message)
    except ValueError as error:
        return logging.makeLogRecord({"msg": "failed", "exc_info": (ValueError, error, error.__traceback__)})


def test_secret_filter_leaves_no_traceback_with_a_secret_to_handlers() -> None:
    leaking, harmless = record_of(f"no key in {KEY}"), record_of("harmless")
    assert SecretFilter().filter(leaking)
    assert SecretFilter().filter(harmless)
    assert leaking.exc_info is None
    assert "ValueError: no key in ***" in logging.Formatter().format(leaking)
    assert harmless.exc_info is not None


def test_secret_filter_masks_the_access_log_of_granian() -> None:
    atoms = {"method": "GET", "path": f"/callback/{STATE}", "query_string": f"code={CODE}", "status": 303}
    record = logging.LogRecord(
        "granian.access", 20, "", 0, '"%(method)s %(path)s?%(query_string)s" %(status)d', (atoms,), None
    )
    SecretFilter().filter(record)
    assert record.getMessage() == '"GET /callback/***?code=***" 303'


def test_secret_filter_leaves_records_without_secrets_unchanged(log: Log) -> None:
    record = logging.makeLogRecord({"msg": "%s of %d", "args": ("one", 2)})
    before = dict(vars(record))
    assert SecretFilter().filter(record)
    assert vars(record) == before


async def test_secret_filter_masks_the_access_log_of_aiohttp() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(SecretFilter())
    handler.setFormatter(logging.Formatter("%(message)s %(first_request_line)s"))
    logger = logging.Logger("aiohttp.access of the test")
    logger.addHandler(handler)

    async def callback(_request: web.Request) -> web.Response:
        return web.Response(text="signed in")

    app = web.Application()
    app.router.add_get("/callback/{state}", callback)
    runner = web.AppRunner(app, access_log=logger)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = runner.addresses[0]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{address[1]}/callback/{STATE}?code={CODE}") as response:
            assert response.status == 200
    await asyncio.wait_for(runner.cleanup(), PATIENCE)

    assert '"GET /callback/***?code=*** HTTP/1.1" 200' in stream.getvalue()
    assert CODE not in stream.getvalue()
    assert STATE not in stream.getvalue()


def test_secret_filter_masks_the_access_log_of_uvicorn_and_keeps_its_form() -> None:
    record = logging.makeLogRecord(
        {
            "msg": '%s - "%s %s HTTP/%s" %d',
            "args": ("127.0.0.1:1234", "GET", f"/callback/{STATE}?code={CODE}", "1.1", 303),
        }
    )
    SecretFilter().filter(record)
    line = AccessFormatter('%(client_addr)s "%(request_line)s" %(status_code)s', use_colors=False).format(record)
    assert line == '127.0.0.1:1234 "GET /callback/***?code=*** HTTP/1.1" 303 See Other'


def test_secret_filter_masks_the_access_log_of_hypercorn_and_keeps_its_form() -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/callback/{STATE}",
        "query_string": f"code={CODE}".encode(),
        "scheme": "http",
        "headers": [(b"referer", f"http://localhost/callback/{STATE}?code={CODE}".encode())],
    }
    response = {"status": 303, "headers": [(b"location", f"/auth?callback_url=/callback/{STATE}&x=y".encode())]}
    atoms = AccessLogAtoms(scope, response, 0.1)  # type: ignore[arg-type]
    record = logging.LogRecord(
        "hypercorn.access", 20, "", 0, '"%(R)s" %(s)s "%(f)s" %({Location}o)s %({X-Unknown}i)s', (atoms,), None
    )
    SecretFilter().filter(record)
    assert record.getMessage() == (
        '"GET /callback/***?code=*** ws" 303 "http://localhost/callback/***?code=***" '
        "/auth?callback_url=/callback/***&x=y -"
    )


def test_secret_filter_leaves_mismatched_named_arguments_to_the_handler() -> None:
    record = logging.makeLogRecord({"msg": "%(a)s", "args": MappingProxyType({"b": 1})})
    assert SecretFilter().filter(record)
    with pytest.raises(KeyError):
        record.getMessage()


def test_mask_key_shows_its_ends_or_nothing() -> None:
    assert mask_key(KEY) == "sk-or-v1-…aaaa"
    assert mask_key("b" * 30) == "…bbbb"
    assert mask_key("short") == MASK
    assert (mask_optional(None), mask_optional("x")) == ("None", MASK)


def test_scrub_finds_request_secrets_in_each_spelling() -> None:
    assert scrub('a"b a\\"b a%22b sk-or-v1-x', ['a"b']) == "*** *** *** ***"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        (f"no user for k-or-v1-{HEX}.", "no user for k-or-v1-***."),
        (f"key={HEX[:33]}, {HEX.upper()}", "key=***, ***"),
        (f"sk-or-v-1{HEX} is malformed", "*** is malformed"),
        (f"trace {HEX[:32]}", f"trace {HEX[:32]}"),
        ("request 7f8cf2f4-5b2c-4c8f-9a4f-0d3a4f3e9b61", "request 7f8cf2f4-5b2c-4c8f-9a4f-0d3a4f3e9b61"),
        ("ray 9f2d1c0b7a6e5d4c-AMS, req_01JD9Z5V6Q8W3E2R1T0Y", "ray 9f2d1c0b7a6e5d4c-AMS, req_01JD9Z5V6Q8W3E2R1T0Y"),
        ("InvalidAuthorizationCodeChallengeMethodError", "InvalidAuthorizationCodeChallengeMethodError"),
        ("unsupported_usage_limit_type_for_workspace_2", "unsupported_usage_limit_type_for_workspace_2"),
    ],
)
def test_scrub_masks_keys_without_prefix_and_keeps_ids(text: str, scrubbed: str) -> None:
    assert scrub(text, ()) == scrubbed


def test_scrub_takes_linear_time() -> None:
    # In quadratic time, a million characters would not be done within the limit of a test.
    assert scrub("a" * 1_000_000, ()) == "a" * 1_000_000
    assert scrub("1-" * 500_000, ()) == "1-" * 500_000
    assert scrub("sk-or" * 200_000, ()) == "sk-or" * 200_000


ESCAPABLE = "auth/code+&-0123456789"


def error_with(body: bytes) -> errors.OpenRouterError:
    request = make_request(secrets=(ESCAPABLE,))
    return error_from_response(request, Response(status_code=502, headers={}, body=body, elapsed=0.0), SYSTEM_CLOCK)


ESCAPED = [
    ESCAPABLE.replace("/", "\\/"),
    ESCAPABLE.replace("&", "\\u0026"),
    "".join(f"\\u{ord(character):04X}" for character in ESCAPABLE),
    ESCAPABLE.replace("&", "&amp;"),
    ESCAPABLE.replace("&", "&#x26;").replace("/", "&#47;"),
    ESCAPABLE.replace("/", "%2f").replace("&", "%26").replace("+", "%2b"),
    "".join(f"%{ord(character):02x}" for character in ESCAPABLE),
    "".join(f"%25{ord(character):02x}" for character in ESCAPABLE),
    ESCAPABLE.replace("&", "\\u0026amp;"),
]


@pytest.mark.parametrize("escaped", ESCAPED)
def test_error_message_and_body_show_no_secret_that_came_escaped(escaped: str) -> None:
    body = f'{{"error": {{"message": "bad {escaped}", "metadata": {{"seen": ["{escaped}"]}}}}}}'
    error = error_with(body.encode())
    assert isinstance(error, errors.APIError)
    assert error.message == "bad ***"
    assert error.metadata == {"seen": ["***"]}
    assert error.body == body.replace(escaped, "***")


@pytest.mark.parametrize("escaped", ESCAPED)
def test_error_page_shows_no_secret_that_came_escaped(escaped: str) -> None:
    error = error_with(f"<html><title>bad {escaped}</title>".encode())
    assert isinstance(error, errors.APIError)
    assert error.message == "an HTML page: bad ***"
    assert error.body == "<html><title>bad ***</title>"


def test_error_body_keeps_escapes_of_other_text() -> None:
    error = error_with(b'{"error": {"message": "a\\u0026b %41 &lt;"}}')
    assert isinstance(error, errors.APIError)
    assert error.body == '{"error": {"message": "a\\u0026b %41 &lt;"}}'


@pytest.mark.parametrize(
    "unit",
    [
        *("<title", "<title>", "<title >x", "</title", "<", "sk-or-", "code=", "bearer ", "/", "%2F"),
        *("%25", "&amp;", "&", "\\", "code='", "'code'", "?", "openrouter-", "ticket-"),
    ],
)
def test_repeated_markup_is_read_in_linear_time(unit: str) -> None:
    page = "<html>" + unit * (262_144 // len(unit))
    started = time.process_time()
    error_with(page.encode())
    redact_text(page)
    # Quadratic time would be minutes for these 256 KiB.
    assert time.process_time() - started < 0.05 * 256
