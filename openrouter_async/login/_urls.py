"""The URLs of a login, and checks against parameters that would silently weaken it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

import attrs
from yarl import URL

from openrouter_async._http.options import to_base_url
from openrouter_async._values.frames import hide_arguments
from openrouter_async._values.models import (
    CodeChallengeMethod,
    CreateAuthKeysCodeRequest,
    to_code_challenge_method,
    validate_callback_url,
    validate_code_verifier,
)
from openrouter_async.errors import RequestValidationError

AUTHORIZATION_URL: Final = "https://openrouter.ai/auth"
"""The URL of OpenRouter's consent page."""

MAX_RETURN_TO_LENGTH: Final = 512
"""The maximum number of characters of ``return_to``."""

_S256_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_STATE: Final = re.compile(r"[A-Za-z0-9_-]{22,128}")
_VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F)))
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# The start of a path that becomes `//host` when its dot segments are removed (RFC 3986, section 5.2.4).
_NETWORK_PATH: Final = re.compile(r"/[/\\]")
_PLACEHOLDER: Final = "{state}"
# OpenRouter adds these parameters, so they would appear twice. A verifier must never be in a URL.
_RESERVED: Final = frozenset({"code", "code_verifier", "error", "error_description", "state"})
# The request model checks the other fields; it requires a callback URL, which was checked before.
_CHECKED_CALLBACK: Final = "https://localhost/"


@hide_arguments
def authorization_url(
    *,
    callback_url: str | URL | None,
    code_challenge: str | None,
    code_challenge_method: CodeChallengeMethod | str | None,
    state: str | None = None,
    key_label: str | None = None,
    limit: float | None = None,
    auth_url: str | URL = AUTHORIZATION_URL,
) -> URL:
    """Return the URL of the consent page for one login.

    Args:
        callback_url: The URL to which the user returns; None for a headless login, whose page shows the code.
        code_challenge: The challenge; None for a login without PKCE, which cannot be headless.
        code_challenge_method: The method of the challenge. It is required: without it, a server may assume ``plain``.
        state: A random value that ties the callback to the login: 22 to 128 characters of ``A-Z a-z 0-9 - _``.
        key_label: The name of the key, at most 100 characters.
        limit: The credit limit of the key in US dollars.
        auth_url: The page; plain http is accepted only on a loopback host.

    Raises:
        RequestValidationError: An argument is not valid, or would weaken the login.

    See Also:
        https://openrouter.ai/docs/use-cases/oauth-pkce; RFC 6749, section 4.1.1; RFC 7636, section 4.3.
    """
    page = to_base_url("auth_url", auth_url)
    callback = None if callback_url is None else _to_callback_url(callback_url)
    if key_label is not None or limit is not None:
        CreateAuthKeysCodeRequest(callback_url=_CHECKED_CALLBACK, key_label=key_label, limit=limit)
    query = {} if callback is None else {"callback_url": callback}
    query |= _challenge(code_challenge, code_challenge_method, headless=callback is None)
    if state is not None:
        if not isinstance(state, str) or not _STATE.fullmatch(state):
            raise RequestValidationError("state", "must be 22 to 128 characters of A-Z a-z 0-9 - _")
        query["state"] = state
    if key_label is not None:
        query["key_label"] = key_label
    if limit is not None:
        query["limit"] = repr(limit).removesuffix(".0")
    return page.with_query(query)


def default_auth_url(base_url: URL) -> URL:
    """Return the URL of the consent page that belongs to an API, such as that of a sandbox."""
    path = base_url.raw_path.rstrip("/").removesuffix("/api/v1")
    return base_url.with_path(f"{path}/auth", encoded=True)


def _challenge(challenge: str | None, method: object, *, headless: bool) -> dict[str, str]:
    if challenge is None:
        if method is not None:
            raise RequestValidationError("code_challenge_method", "must come with a code_challenge")
        if headless:
            raise RequestValidationError("code_challenge", "must be given: a headless login needs one")
        return {}
    if method is None:
        raise RequestValidationError("code_challenge_method", "must be given with a code_challenge")
    method = to_code_challenge_method(method)
    if method is CodeChallengeMethod.PLAIN:
        if headless:
            raise RequestValidationError("code_challenge_method", "must be S256 in a headless login")
        validate_code_verifier("code_challenge", challenge)
    elif not isinstance(challenge, str) or not _S256_CHALLENGE.fullmatch(challenge):
        raise RequestValidationError("code_challenge", "must be 43 characters of base64url: a hash, not a verifier")
    return {"code_challenge": challenge, "code_challenge_method": method.value}


def _to_callback_url(value: str | URL) -> str:
    text = str(value) if isinstance(value, URL) else value
    url = validate_callback_url("callback_url", text)
    taken = sorted(_RESERVED.intersection(url.query))
    if taken:
        raise RequestValidationError("callback_url", f"must not have {taken[0]} in its query")
    return text


def validate_return_to(field: str, value: object) -> str:
    r"""Check a path to which the app redirects the user after the login; it must not lead to another site.

    Args:
        field: The name to use in the message.
        value: The path, with query and fragment if need be.

    Returns:
        The path, with spaces and non-ASCII characters percent-encoded.

    Raises:
        RequestValidationError: The value is not a path on the app's own site, such as ``https://…``, ``//…``, ``/\…``,
            ``/.//…``, a path with control characters, or one of more than 512 characters when encoded.

    See Also:
        RFC 9700, section 4.11: open redirectors.
    """
    if isinstance(value, str) and value.startswith("/") and "\\" not in value and not _CONTROL.search(value):
        try:
            encoded = quote(value, safe=_VISIBLE)
        except UnicodeEncodeError:
            encoded = ""
        if 0 < len(encoded) <= MAX_RETURN_TO_LENGTH and _stays_on_site(encoded):
            return encoded
    raise RequestValidationError(field, f"must be a path on this site, of at most {MAX_RETURN_TO_LENGTH} characters")


def _stays_on_site(path: str) -> bool:
    path = path.partition("?")[0].partition("#")[0]
    # A proxy on the way may decode the path, perhaps more than once. Each pass shortens an encoded path.
    while True:
        # Browsers remove tabs and line breaks from the address of a redirect.
        if _CONTROL.search(path) or _NETWORK_PATH.match(_remove_dot_segments(path)):
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded


def _remove_dot_segments(path: str) -> str:
    kept: list[str] = []
    *segments, last = re.split(r"[/\\]", path)[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join([*kept, last])


def _is_template(_instance: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise RequestValidationError(attribute.name, "must be a string or a URL")
    if value.count(_PLACEHOLDER) > 1:
        raise RequestValidationError(attribute.name, "must not have more than one {state}")
    nonce = "s" * 43
    url = URL(_to_callback_url(value.replace(_PLACEHOLDER, nonce)))
    if _PLACEHOLDER in value and nonce not in url.raw_path:
        raise RequestValidationError(attribute.name, "must have {state} in its path, or not at all")


def _to_template(value: str | URL) -> str:
    # yarl percent-encodes the braces.
    return str(value).replace("%7Bstate%7D", _PLACEHOLDER) if isinstance(value, URL) else value


@attrs.frozen
class CallbackTemplate:
    """A callback URL, which may have ``{state}`` in its path.

    A state in the path cannot get lost: OpenRouter does not echo the ``state`` parameter when the user denies access.

    Raises:
        RequestValidationError: The URL is not valid, or has the placeholder elsewhere or twice.
    """

    callback_url: str = attrs.field(
        converter=_to_template,
        validator=_is_template,
    )

    def fill(self, state: str) -> str:
        """Return the callback URL of one login."""
        return self.callback_url.replace(_PLACEHOLDER, state)

    def find_state(self, path: str) -> str | None:
        """Return the state in the path of a callback; None if the path or the template has none."""
        before, placeholder, after = URL(self.callback_url).path.partition(_PLACEHOLDER)
        path = unquote(path)
        if not placeholder or not (path.startswith(before) and path.endswith(after)):
            return None
        state = path[len(before) : len(path) - len(after)]
        return state if _STATE.fullmatch(state) else None
