from __future__ import annotations

import pickle
import time
import traceback
from typing import Any
from urllib.parse import quote, unquote, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from multidict import MultiDict
from yarl import URL

from openrouter_async import OpenRouter
from openrouter_async.login import AuthorizationFlow, InvalidCallbackError, LoginError, StateMismatchError
from openrouter_async.login._callbacks import Callback, read_callback, read_pasted
from openrouter_async.login._urls import CallbackTemplate

STATE = "Zk9-" + "s" * 39
OTHER = "Zk9-" + "t" * 39
CODE = "auth_code_Abc-123"
TEMPLATE = CallbackTemplate("https://app.example/cb/{state}")
FINISHED = Callback(state=STATE, code=CODE)


class ListsOnly(dict[str, Any]):
    """The interface that the multi-dicts of Django, Starlette and Werkzeug share."""

    def __getitem__(self, name: str) -> str:
        return str(super().__getitem__(name)[-1])

    def getlist(self, name: str) -> list[str]:
        return list(super().__getitem__(name))


@pytest.mark.parametrize(
    "callback",
    [
        f"https://app.example/cb/{STATE}?code={CODE}&state={STATE}",
        f"https://app.example/cb/{STATE}?code={CODE}",
        f"http://inside:8080/cb/{STATE}?code={CODE}",
        f"/cb/{STATE}?code={CODE}",
        URL(f"https://app.example/cb/{STATE}?code={CODE}"),
        f"https://app.example/elsewhere?code={CODE}&state={STATE}&next=https://app.example/?code=x",
        f"?iss=https%3A%2F%2Fopenrouter.ai&code={CODE}&state={STATE}",
        f"?code={CODE}&state={STATE}",
        f"code={CODE}&state={STATE}&next=https://app.example/",
        {"code": CODE, "state": STATE},
        {"code": [CODE], "state": (STATE,), "other": ["a", "b"]},
        MultiDict([("code", CODE), ("state", STATE), ("tag", "a"), ("tag", "b")]),
        ListsOnly(code=[CODE], state=[STATE]),
    ],
)
def test_callback_is_read_in_the_form_of_any_framework(callback: Any) -> None:
    assert read_callback(callback, TEMPLATE) == FINISHED


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=80))
def test_callback_code_of_any_visible_characters_survives(code: str) -> None:
    # An API key is refused wherever it begins: somebody pasted the wrong thing.
    assume("sk-" not in unquote(code).lower())
    expected = Callback(state=STATE, code=code)

    assert read_callback(f"/cb/{STATE}?{urlencode({'code': code})}", TEMPLATE) == expected
    assert read_callback({"code": code, "state": STATE}, None) == expected


@given(st.one_of(st.text(max_size=300), st.dictionaries(st.sampled_from(["code", "state", "error", "x"]), st.text())))
def test_callback_of_any_input_is_read_or_a_library_error(callback: Any) -> None:
    try:
        read = read_callback(callback, TEMPLATE)
    except LoginError:
        return

    assert (read.code is None) != (read.error is None)
    assert read.code is None or read.state is not None


@pytest.mark.parametrize(
    "callback",
    [
        f"/cb/{STATE}",
        f"/cb/{STATE}?code={CODE}&error=access_denied",
        f"/cb/{STATE}?code={CODE}&code={CODE}",
        f"/cb/{STATE}?code={CODE}&code=other",
        f"/cb/{STATE}?code={CODE}&state={STATE}&state={STATE}",
        f"/cb/{STATE}?error=access_denied&error=other",
        f"/cb/{STATE}?code=",
        f"/cb/{STATE}?code=a%00b",
        f"/cb/{STATE}?code=a%0d%0ab",
        f"/cb/{STATE}?code=a\r\nb",
        f"/cb/{STATE}\x00?code={CODE}",
        f"/cb/{STATE}?code=%ff",
        f"/cb/{STATE}?code=%C3%BC",
        f"/cb/{STATE}?code=" + "x" * 1025,
        f"https://[half/cb?code={CODE}",
        "?" + "&".join(f"x{number}=1" for number in range(100)) + f"&code={CODE}&state={STATE}",
        MultiDict([("code", CODE), ("code", "other"), ("state", STATE)]),
        ListsOnly(code=[CODE, "other"], state=[STATE]),
        {"code": [CODE, CODE], "state": STATE},
        {"code": 7, "state": STATE},
        {"code": [b"bytes"], "state": STATE},
        {"code": "x" * 10_000, "state": STATE},
        {"code": "a\x00b", "state": STATE},
        {},
        "",
    ],
)
def test_callback_malformed_is_refused(callback: Any) -> None:
    with pytest.raises(InvalidCallbackError) as caught:
        read_callback(callback, TEMPLATE)

    assert CODE not in str(caught.value)
    assert STATE not in str(caught.value)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (f"/cb/{STATE}", "the callback must have either a code or an error"),
        (f"/cb/{STATE}?code=", "the code must be 1 to 1024 visible ASCII characters"),
        (f"/cb/{STATE}?code={CODE}&code=x", "the callback must not have code twice (RFC 6749, section 3.1)"),
        (f"/cb/{STATE}?error=a&error=b", "the callback must not have error twice (RFC 6749, section 3.1)"),
        (f"/cb/{STATE}?code=a%00b", "the callback must not have control characters in code"),
        ({"state": STATE, "code": "a\x7fb"}, "the callback must not have control characters in code"),
        (f"/cb/{STATE}?code=a\r\nb", "the callback must not have control characters"),
        (f"/cb/{STATE}?code=%ff", "the callback must be a well-formed URL or query"),
        ("?" + "x=1&" * 50 + f"code={CODE}", "the callback must be a well-formed URL or query"),
        ("?" + "x" * 8192, "the callback must have at most 8192 characters"),
        ({"state": STATE, "code": "x" * 8193}, "the callback must have at most 8192 characters"),
        ({"state": STATE, "code": 7}, "the parameters of the callback must be strings"),
        (f"?code={CODE}", "the callback has no state"),
        (f"?code={CODE}&state=forged", "the state of the callback is not one that was made here"),
        (
            f"/cb/{STATE}?code={CODE}&state={OTHER}",
            "the callback has one state in its path and another one in its query",
        ),
    ],
)
def test_callback_refusal_names_what_is_wrong(callback: Any, message: str) -> None:
    with pytest.raises(LoginError) as caught:
        read_callback(callback, TEMPLATE)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "state", "message"),
    [
        (CODE, "forged", "the state is not one that was made here"),
        (CODE, None, "the state is not one that was made here"),
        (None, STATE, "the pasted text must be a string"),
        ("x" * 8193, STATE, "the callback must have at most 8192 characters"),
        (f"code={CODE}&state={OTHER}", STATE, "the pasted text belongs to another login"),
        ("two words", STATE, "the code must be 1 to 1024 visible ASCII characters"),
    ],
)
def test_pasted_code_refusal_names_what_is_wrong(text: Any, state: Any, message: str) -> None:
    with pytest.raises(LoginError) as caught:
        read_pasted(text, TEMPLATE, state)

    assert str(caught.value) == message


def test_callback_at_its_size_limit_is_read() -> None:
    longest = "x" * 1024
    query = f"code={longest}&state={STATE}" + "&x=1" * 48

    assert read_callback(query, TEMPLATE).code == longest
    assert read_callback(query.removesuffix("1").ljust(8192, "y"), TEMPLATE).code == longest
    assert read_callback({"code": longest, "state": STATE}, None).code == longest
    assert read_pasted(longest.rjust(8192), None, STATE).code == longest


def test_callback_mapping_with_error_is_a_denial_without_a_code() -> None:
    read = read_callback({"error": "access_denied", "state": STATE}, None)

    assert read == Callback(state=STATE, error="access_denied")


def test_callback_of_a_megabyte_is_refused_before_parsing() -> None:
    callback = f"/cb/{STATE}?code={CODE}&" + "x=1&" * 250_000
    started = time.thread_time()

    with pytest.raises(InvalidCallbackError, match="at most 8192 characters"):
        read_callback(callback, TEMPLATE)

    assert time.thread_time() - started < 0.05


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (f"/cb?code={CODE}", "has no state"),
        (f"/elsewhere/{STATE}?code={CODE}", "has no state"),
        (f"/cb/{STATE}?code={CODE}&state={OTHER}", "one state in its path and another"),
        (f"/cb/{STATE}?code={CODE}&state=", "not one that was made here"),
        (f"/cb/{STATE}?code={CODE}&state=forged", "not one that was made here"),
        (f"/cb/{STATE}?error=access_denied&state={OTHER}", "one state in its path and another"),
        ({"code": CODE}, "has no state"),
        ({"code": CODE, "state": STATE + "\x00"}, None),
    ],
)
def test_callback_state_missing_or_malformed_is_refused(callback: Any, message: str | None) -> None:
    with pytest.raises((StateMismatchError, InvalidCallbackError), match=message or "control characters") as caught:
        read_callback(callback, TEMPLATE)

    assert STATE not in str(caught.value)
    assert OTHER not in str(caught.value)


def test_callback_error_takes_the_state_of_the_path() -> None:
    read = read_callback(f"/cb/{STATE}?error=access_denied&error_description=no", TEMPLATE)

    assert read == Callback(state=STATE, error="access_denied")


def test_callback_error_without_state_is_an_error() -> None:
    assert read_callback("?error=access_denied", TEMPLATE) == Callback(state=None, error="access_denied")


@pytest.mark.parametrize("error", ["<script>alert(1)</script>", "x" * 65, "", "a b", "\u202e"])
def test_callback_error_with_unusual_code_is_not_repeated(error: str) -> None:
    assert read_callback(f"/cb/{STATE}?error={quote(error)}", TEMPLATE).error == "unknown"


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        f"  {CODE}\r\n",
        f"code={CODE}",
        f"?code={CODE}",
        f"state={STATE}&code={CODE}",
        f"http://127.0.0.1:3000/callback?code={CODE}",
        f" https://app.example/cb/{STATE}?code={CODE}&state={STATE} ",
        f"HTTPS://app.example/?code={CODE}#fragment",
        f"localhost:3000/callback?code={CODE}&state={STATE}",
        f"app.example/cb/{STATE}?code={CODE}",
        f"app.example?code={CODE}",
        f"/cb/{STATE}?code={CODE}&next=https://app.example/",
    ],
)
def test_pasted_text_with_a_code_is_found(text: str) -> None:
    assert read_pasted(text, TEMPLATE, STATE) == FINISHED


@pytest.mark.parametrize(
    "text",
    [
        f'"{CODE}"',
        f"'{CODE}'",
        f"`{CODE}`",
        f"```\n{CODE}\n```",
        f"<{CODE}>",
        f"({CODE}).",
        f"\u201c{CODE}\u201d",
        f"\u201e{CODE}\u201c",
        f"«{CODE}»",
        f"{CODE}.",
        f'"{CODE}."',
        f"{CODE},",
        f"\u200b{CODE[:5]}\u00ad{CODE[5:]}\ufeff",
        f"\u2066{CODE}\u2069",
        f"code: {CODE}",
        f"Code : {CODE}",
        f"Your code is: {CODE}",
        f"Authorization code: `{CODE}`.",
        f"<https://app.example/cb/{STATE}?code={CODE}&amp;state={STATE}>",
        f"https://app.example/cb/{STATE}?code={CODE}&#38;state={STATE}",
        f"[https://app.example/cb](https://app.example/cb/{STATE}?code={CODE}&state={STATE})",
        f"[{CODE}]({CODE})",
        f"code%3D{CODE}%26state%3D{STATE}",
        f"https://app.example/cb/{STATE}%3Fcode%3D{CODE}%26state%3D{STATE}",
        f"https://app.example/cb/{STATE}?code={CODE};state={STATE}",
        f"state={STATE};code={CODE}",
        f"**{CODE}**",
        f"**{CODE}**!",
        f"> - {CODE}",
        f"• {CODE}",
        f"{CODE}?",
        f"{CODE}:",
        f"{CODE}。",
        f"{CODE}、",
        f'{{"code":"{CODE}"}}',
        f'"code": "{CODE}"',
        f"code\uff1a{CODE}",
        f"`{CODE}",
        f'{CODE}"',
        f"\u201a{CODE}\u2018",
        f"{CODE}\ufe0f",
        CODE.translate({n: n + 0xFEE0 for n in range(0x21, 0x7F)}),
        CODE.replace("-", "\u2011"),
        f"\x1b[200~{CODE}\x1b[201~",
        f"https%3A%2F%2Fapp.example%2Fcb%2F{STATE}%3Fcode%3D{CODE}",
        f"app.example/cb/{STATE}?code={CODE}#:~:text=code",
    ],
)
def test_pasted_code_with_marks_around_it_is_cleaned(text: str) -> None:
    assert read_pasted(text, TEMPLATE, STATE) == FINISHED


@pytest.mark.parametrize("code", ["a.b", "a'b", "code", "code-x", "<a", "a=b", "x&amp", "auth_code_a%3Db", "[a]"[1:]])
def test_pasted_code_with_marks_inside_is_kept(code: str) -> None:
    assert read_pasted(code, TEMPLATE, STATE).code == code


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("sk-or-v1-" + "a" * 64, "API key"),
        ("'sk-or-v1-abc'", "API key"),
        ("code: sk-or-v1-abc", "API key"),
        ("OPENROUTER_API_KEY=sk-or-v1-abc", "API key"),
        ("export OPENROUTER_API_KEY='sk-or-v1-abc'", "API key"),
        ("Authorization: Bearer sk-or-v1-abc", "API key"),
        ('{"key": "sk-or-v1-abc"}', "API key"),
        ("SK-OR-V1-ABC", "API key"),
        ("\uff53\uff4b-or-v1-abc", "API key"),
        ("s\u200bk-or-v1-abc", "API key"),
        ("%73k-or-v1-abc", "API key"),
        (f"https://app.example/cb/{STATE}?code=sk-orca-abc", "API key"),
        ("my key is sk-proj-abc", "API key"),
        (f"{CODE[:4]}...{CODE[-4:]}", "cut off"),
        (f"{CODE[:-4]}...", "cut off"),
        (f"{CODE[:-4]}…", "cut off"),
        ("auth_code_", "cut off"),
        ("where is the code?", "not a code"),
    ],
)
def test_pasted_text_that_cannot_be_a_code_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(InvalidCallbackError) as caught:
        read_pasted(text, TEMPLATE, STATE)

    assert hint in caught.value.user_message
    assert not caught.value.restart_login
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.user_message, again.restart_login) == (caught.value.user_message, False)


def test_callback_with_api_key_as_code_is_refused() -> None:
    with pytest.raises(InvalidCallbackError, match="API key") as caught:
        read_callback(f"/cb/{STATE}?code=sk-or-v1-abc", TEMPLATE)

    assert caught.value.restart_login


def test_pasted_denial_is_a_denial() -> None:
    read = read_pasted("http://127.0.0.1/cb?error=access_denied", None, STATE)

    assert read == Callback(state=STATE, error="access_denied")


@pytest.mark.parametrize(
    "text",
    ["", "   ", "two words", "https://app.example/", f"code={CODE}&code=other", "x" * 1025, "x" * 1_000_000, "ü"],
)
def test_pasted_text_without_a_code_is_refused(text: str) -> None:
    with pytest.raises(InvalidCallbackError):
        read_pasted(text, TEMPLATE, STATE)


@pytest.mark.parametrize(
    "text",
    [
        f"code={CODE}&state={OTHER}",
        f"https://app.example/cb/{OTHER}?code={CODE}",
        f"app.example/cb/{OTHER}?code={CODE}",
        f"/cb/{OTHER}?code={CODE}",
        f"code={CODE}&state=forged",
    ],
)
def test_pasted_url_of_another_login_is_refused(text: str) -> None:
    with pytest.raises(StateMismatchError):
        read_pasted(text, TEMPLATE, STATE)


@pytest.mark.parametrize("state", ["made-up", "", STATE + "s", None, 7])
def test_finish_code_with_malformed_state_is_refused(state: Any) -> None:
    with pytest.raises(StateMismatchError):
        read_pasted(CODE, None, state)


@pytest.mark.parametrize("text", [None, 7, b"code"])
def test_pasted_message_without_text_is_refused(text: Any) -> None:
    with pytest.raises(InvalidCallbackError, match="must be a string"):
        read_pasted(text, None, STATE)


def frames_of(error: BaseException) -> str:
    """Return the local variables of the library's own frames in a traceback."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert shown.__cause__ is shown.__context__ is None
    return repr([frame.locals for frame in shown.stack if "openrouter_async" in frame.filename])


@pytest.mark.parametrize(
    "callback",
    [
        f"/cb/{STATE}?code={CODE}&code={CODE}",
        f"/cb/{STATE}?code={CODE}%ff",
        f"/cb/{STATE}?code={CODE}&state={OTHER}",
        f"https://[half/cb/{STATE}?code={CODE}",
        {"code": [CODE, CODE], "state": STATE},
        {"code": CODE + "\x00", "state": STATE},
    ],
)
async def test_callback_traceback_with_locals_shows_no_code_or_state(callback: Any) -> None:
    async with OpenRouter(None) as client:
        flow = AuthorizationFlow(client, callback_url="https://app.example/cb/{state}")
        with pytest.raises(LoginError) as read:
            await flow.finish(callback)
        with pytest.raises(LoginError) as pasted:
            await flow.finish_code(STATE, str(callback))
        with pytest.raises(LoginError) as unknown:
            await flow.finish(f"/cb/{STATE}?code={CODE}")

    for caught in (read, pasted, unknown):
        for secret in (CODE, STATE, OTHER):
            assert secret not in frames_of(caught.value)


def test_callback_repr_shows_no_state_or_code() -> None:
    assert repr(FINISHED) == "Callback(state=***, code=***, error=None)"
