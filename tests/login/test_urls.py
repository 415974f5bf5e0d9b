from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from openrouter_async.errors import RequestValidationError
from openrouter_async.login import authorization_url, validate_return_to
from openrouter_async.login._urls import CallbackTemplate
from openrouter_async.pkce import PKCEPair, generate_code_verifier

CALLBACK = "https://app.example/callback"
PAIR = PKCEPair.generate()
STATE = "s" * 43


def build(**changes: Any) -> URL:
    arguments: dict[str, Any] = {
        "callback_url": CALLBACK,
        "code_challenge": PAIR.code_challenge,
        "code_challenge_method": "S256",
    }
    return authorization_url(**arguments | changes)


def test_auth_url_has_the_given_parameters_only() -> None:
    url = build(state=STATE, key_label="Büro & Co", limit=5.0)

    assert str(url).startswith("https://openrouter.ai/auth?")
    assert parse_qs(url.raw_query_string, strict_parsing=True) == {
        "callback_url": [CALLBACK],
        "code_challenge": [PAIR.code_challenge],
        "code_challenge_method": ["S256"],
        "state": [STATE],
        "key_label": ["Büro & Co"],
        "limit": ["5"],
    }


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_auth_url_label_survives_percent_encoding(label: str) -> None:
    url = build(key_label=label)

    assert str(url).isascii()
    assert parse_qs(urlsplit(str(url)).query, keep_blank_values=True)["key_label"] == [label]


@given(st.floats(min_value=0, allow_infinity=False))
def test_auth_url_limit_keeps_its_number(limit: float) -> None:
    assert float(parse_qs(urlsplit(str(build(limit=limit))).query)["limit"][0]) == limit


def test_auth_url_callback_with_its_own_query_arrives_whole() -> None:
    callback = "https://app.example/cb?tenant=a%26b&x=1+2"

    assert parse_qs(urlsplit(str(build(callback_url=callback))).query)["callback_url"] == [callback]


def test_auth_url_headless_has_no_callback() -> None:
    assert "callback_url" not in build(callback_url=None).query


def test_auth_url_without_pkce_needs_an_explicit_choice() -> None:
    url = build(code_challenge=None, code_challenge_method=None)

    assert list(url.query) == ["callback_url"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"code_challenge_method": None}, "code_challenge_method"),
        ({"code_challenge": None}, "code_challenge_method"),
        ({"code_challenge_method": "s256"}, "code_challenge_method"),
        ({"code_challenge_method": "PLAIN"}, "code_challenge_method"),
        ({"code_challenge": PAIR.code_verifier}, "code_challenge"),
        ({"code_challenge": PAIR.code_challenge + "="}, "code_challenge"),
        ({"code_challenge": 7}, "code_challenge"),
        ({"code_challenge": "short", "code_challenge_method": "plain"}, "code_challenge"),
        ({"callback_url": None, "code_challenge": None, "code_challenge_method": None}, "code_challenge"),
        (
            {"callback_url": None, "code_challenge": PAIR.code_verifier, "code_challenge_method": "plain"},
            "code_challenge_method",
        ),
        ({"callback_url": "http://app.example/cb"}, "callback_url"),
        ({"callback_url": "http://127.0.0.1.evil.example/cb"}, "callback_url"),
        ({"callback_url": CALLBACK + "#fragment"}, "callback_url"),
        ({"callback_url": CALLBACK + "#"}, "callback_url"),
        ({"callback_url": "https://user:password@app.example/cb"}, "callback_url"),
        ({"callback_url": "https://app.example/cb\r\nX: y"}, "callback_url"),
        ({"callback_url": "javascript:alert(1)"}, "callback_url"),
        ({"callback_url": CALLBACK + "?code_verifier=" + PAIR.code_verifier}, "callback_url"),
        ({"callback_url": CALLBACK + "?state=mine"}, "callback_url"),
        ({"callback_url": URL(CALLBACK + "?code=mine")}, "callback_url"),
        ({"state": "too-short"}, "state"),
        ({"state": STATE + "&x=y"}, "state"),
        ({"state": 7}, "state"),
        ({"key_label": "x" * 101}, "key_label"),
        ({"limit": float("inf")}, "limit"),
        ({"auth_url": "http://openrouter.ai/auth"}, "auth_url"),
        ({"auth_url": "https://user@openrouter.ai/auth"}, "auth_url"),
    ],
)
def test_auth_url_weakening_arguments_are_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestValidationError) as caught:
        build(**changes)

    assert caught.value.field == field
    assert PAIR.code_verifier not in str(caught.value)


def test_auth_url_verifier_as_challenge_is_refused() -> None:
    for _ in range(200):
        with pytest.raises(RequestValidationError):
            build(code_challenge=generate_code_verifier())


def test_auth_url_plain_challenge_is_sent_unchanged() -> None:
    url = build(code_challenge=PAIR.code_verifier, code_challenge_method="plain")

    assert url.query["code_challenge"] == PAIR.code_verifier


@pytest.mark.parametrize(
    "path", ["/", "/settings", "/a/b?next=/c&d=%2F#e", "/~user", "/" + "x" * 511, "/@evil.example", "/:80"]
)
def test_return_to_path_on_the_own_site_is_accepted(path: str) -> None:
    assert validate_return_to("return_to", path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "settings",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/\n/evil.example",
        " //evil.example",
        "/a\x00",
        "/.//evil.example",
        "/..//evil.example",
        "/a/..//evil.example",
        "/a/b/../..//evil.example",
        "/././/evil.example",
        "/%2e//evil.example",
        "/%2E%2e//evil.example",
        "/.%2f/evil.example",
        "/%252e%252f%252fevil.example",
        "/.%5cevil.example/..%2f%2fevil.example",
        "/%09/evil.example",
        "/.%0a/evil.example",
        "/%250d/evil.example",
        "/%00",
        "/\ud800",
        "/" + "ü" * 100,
        "/" + "x" * 512,
        None,
        7,
    ],
)
def test_return_to_that_could_leave_the_site_is_refused(path: object) -> None:
    with pytest.raises(RequestValidationError, match="return_to"):
        validate_return_to("return_to", path)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("/a b", "/a%20b"),
        ("/Zürich?straße=ü#é", "/Z%C3%BCrich?stra%C3%9Fe=%C3%BC#%C3%A9"),
        ("/\u2028x", "/%E2%80%A8x"),
        ("/a%20b", "/a%20b"),
        ("/a//b", "/a//b"),
        ("/a/../b", "/a/../b"),
        ("/a?next=/.//b", "/a?next=/.//b"),
    ],
)
def test_return_to_not_ascii_is_percent_encoded(path: str, encoded: str) -> None:
    assert validate_return_to("next", path) == encoded


@given(st.text("/\\.:@?#%\t\n azAZ09é", max_size=12).map(lambda text: "/" + text))
def test_return_to_accepted_path_stays_on_the_site(path: str) -> None:
    try:
        path = validate_return_to("return_to", path)
    except RequestValidationError:
        return

    assert urlsplit(urljoin("https://app.example/callback", path)).netloc == "app.example"
    assert URL("https://app.example/callback").join(URL(path)).host == "app.example"


@pytest.mark.parametrize(
    "template",
    [
        "https://app.example/cb/{state}",
        "https://app.example/cb/{state}/done?x=1",
        "https://app.example/cb-{state}",
        "http://127.0.0.1:8080/{state}",
        URL("https://app.example/ü/{state}"),
    ],
)
def test_callback_template_state_is_found_in_the_path(template: str | URL) -> None:
    callback = CallbackTemplate(template)

    assert callback.find_state(URL(callback.fill(STATE)).raw_path) == STATE


@given(st.text("abcXYZ019-_./~ü\x00", max_size=140), st.sampled_from(["/cb/", "/"]))
def test_callback_template_finds_only_well_formed_states(text: str, before: str) -> None:
    found = CallbackTemplate("https://app.example/cb/{state}/x").find_state(f"{before}{text}/x")

    assert found == (text if before == "/cb/" and re.fullmatch("[A-Za-z0-9_-]{22,128}", text) else None)


def test_callback_template_without_a_placeholder_finds_nothing() -> None:
    assert CallbackTemplate(CALLBACK).find_state("/callback") is None


@pytest.mark.parametrize(
    "template",
    [
        "https://app.example/{state}/{state}",
        "https://app.example/cb?nonce={state}",
        "https://{state}.app.example/cb",
        "https://app.example/cb#{state}",
        "http://app.example/{state}",
        7,
        None,
    ],
)
def test_callback_template_with_a_misplaced_placeholder_is_refused(template: Any) -> None:
    with pytest.raises(RequestValidationError, match="callback_url"):
        CallbackTemplate(template)
