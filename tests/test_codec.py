from __future__ import annotations

import builtins
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openrouter_async import (
    CreateAuthKeysCodeRequest,
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    HttpMeta,
    OpenRouter,
)
from openrouter_async._values import codec
from openrouter_async._values.converter import MalformedBodyError, dump, load
from tests.raw import answering, http
from tests.support import codec_named

META = HttpMeta()


@pytest.fixture(autouse=True)
def _codec_as_before() -> Iterator[None]:
    before = codec.active()
    yield
    codec.select(before)


def read(name: str, kind: Any, body: bytes) -> Any:
    """What a codec makes of a body: the response, or the message of the error."""
    codec.select(codec_named(name))
    try:
        return load(kind, body, META)
    except MalformedBodyError as malformed:
        return str(malformed)


def read_by_both(kind: Any, body: bytes) -> Any:
    standard = read("json", kind, body)
    assert read("orjson", kind, body) == standard
    return standard


def key_of(body: bytes) -> Any:
    result = read_by_both(ExchangeAuthCodeForAPIKeyResponse, body)
    return result if isinstance(result, str) else result.key


BESIDE = {
    "not a number": (b"NaN", True),
    "infinities": (b"[Infinity, -Infinity]", True),
    "a number that overflows": (b"1e400", True),
    "an integer of 65 bits": (b"18446744073709551616", True),
    "a negative integer of 64 bits": (b"-9223372036854775809", True),
    "a long integer": (b"9" * 300, True),
    "an integer that is too long": (b"9" * 4301, False),
    "half a surrogate pair": (rb'"\ud800"', True),
    "surrogates in the wrong order": (rb'"\udc00\ud800"', True),
    "an encoded surrogate": (b'"\xed\xa0\x80"', False),
    "a byte that is no UTF-8": (b'"\xff"', False),
    "an overlong encoding": (b'"\xc0\x80"', False),
    "a bare tab": (b'"\t"', False),
    "an escaped NUL": (rb'"\u0000"', True),
    "deep arrays": (b"[" * 500 + b"]" * 500, True),
    "arrays that are too deep": (b"[" * 100_000 + b"]" * 100_000, False),
    "a leading zero": (b"01", False),
    "no digit after the point": (b"1.", False),
    "a trailing comma": (b"[1,]", False),
    "a literal of Python": (b"True", False),
    "single quotes": (b"'text'", False),
    "a key that is a number": (b"{1: 2}", False),
    "a comment": (b"/* comment */ 1", False),
}


@pytest.mark.parametrize(("beside", "accepted"), BESIDE.values(), ids=BESIDE)
def test_what_stands_beside_a_key_is_accepted_or_refused_alike(beside: bytes, accepted: bool) -> None:
    result = key_of(b'{"key": "sk", "beside": ' + beside + b"}")
    assert (result == "sk") is accepted


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (rb'"\ud800"', "\ud800"),
        (rb'"\ud83d\ude00"', "\N{GRINNING FACE}"),
        ('"\N{GRINNING FACE}"'.encode(), "\N{GRINNING FACE}"),
        (b'"first", "key": "last"', "last"),
        (b'"first", "\\u006bey": "last"', "last"),
        (b'"\x7f"', "\x7f"),
    ],
)
def test_an_odd_key_is_the_same_key(text: bytes, key: str) -> None:
    assert key_of(b'{"key": ' + text + b"}") == key


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"key": "sk"}',
        b' \r\n\t{"key": "sk"}\n',
        b'{"key": "sk"}\x00',
        b'{"key": "sk"} {}',
        b'\xc2\xa0{"key": "sk"}',
        b'\x0b{"key": "sk"}',
        b'{"key": NaN}',
        b'{"key": "sk"',
        b"[]",
        b"NaN",
        b"\xff",
        b"\xef\xbb\xbf",
        b"",
        b" ",
    ],
)
def test_the_frame_of_a_key_is_read_alike(body: bytes) -> None:
    key_of(body)


@pytest.mark.parametrize("number", [0, -0, 2**53 + 1, 2**63, 2**64 - 1, 2**64, 10**40, -(2**63) - 1])
def test_an_app_id_is_never_rounded(number: int) -> None:
    body = {"data": {"id": "c", "app_id": number, "created_at": "2025-08-24T10:30:00Z"}}
    assert read_by_both(CreateAuthKeysCodeResponse, json.dumps(body).encode()).data.app_id == number


@pytest.mark.parametrize("number", ["1.0", "1e3", "-0.0", "1.8446744073709552e19", "NaN", "true"])
def test_an_app_id_that_is_no_integer_is_refused_alike(number: str) -> None:
    body = '{"data": {"id": "c", "created_at": "2025-08-24T10:30:00Z", "app_id": ' + number + "}}"
    assert read_by_both(CreateAuthKeysCodeResponse, body.encode()) == "not an integer @ $.data.app_id"


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["key", "user_id", "x"]) | st.text(), inner),
)


@given(json_texts, st.text())
def test_any_json_is_read_alike(value: Any, key: str) -> None:
    key_of(json.dumps(value).encode())
    key_of(json.dumps({"beside": value, "key": key, "user_id": value}).encode())


@given(st.binary(max_size=40), st.integers(0, 40))
def test_any_bytes_are_read_alike(noise: bytes, place: int) -> None:
    body = b'{"key": "sk-or-v1-1", "user_id": "u"}'
    key_of(noise)
    key_of(body[:place] + noise + body[place:])
    key_of(body[:place] + noise)


@given(
    st.text(st.characters(codec=None), min_size=1),
    st.text(st.characters(codec=None), max_size=100),
    st.integers(min_value=0) | st.floats(min_value=0, allow_infinity=False, allow_nan=False),
)
# More than orjson writes.
@example(code="a-code", label="a label", limit=2**64)
def test_what_is_sent_means_the_same(code: str, label: str, limit: float) -> None:
    requests = (
        ExchangeAuthCodeForAPIKeyRequest(code=code, code_challenge_method="S256"),
        CreateAuthKeysCodeRequest(callback_url="https://a.example/", key_label=label, limit=limit),
    )
    for request in requests:
        codec.select(codec_named("json"))
        standard = json.loads(dump(request))
        codec.select(codec_named("orjson"))
        assert json.loads(dump(request)) == standard


def test_a_number_that_cannot_be_sent_never_becomes_null() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="limit"):
            CreateAuthKeysCodeRequest(callback_url="https://a.example/", limit=value)


def test_orjson_is_used_when_it_is_installed() -> None:
    codec_named("orjson")
    code = (
        "import sys; from openrouter_async import OpenRouter; from openrouter_async._values import codec\n"
        "assert 'orjson' not in sys.modules\n"
        "OpenRouter(None); assert 'orjson' in sys.modules; print(codec.active().name)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "orjson"


def test_without_orjson_the_standard_library_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without_orjson(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "orjson":
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_orjson)
    assert codec.find() is codec.STANDARD


@pytest.mark.parametrize("name", ["json", "orjson"])
async def test_an_exchange_works_with_either(name: str) -> None:
    codec.select(codec_named(name))
    async with answering(http(200, b'{"key": "sk-or-v1-1", "user_id": null}')) as server:
        async with OpenRouter(None, base_url=server.base_url) as client:
            assert (await client.oauth.exchange_auth_code_for_api_key(code="code \N{SNOWMAN}")).key == "sk-or-v1-1"
    assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2]) == {"code": "code \N{SNOWMAN}"}
