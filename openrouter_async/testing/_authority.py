"""The state and the rules of OpenRouter: codes and keys, without HTTP."""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import attrs

from openrouter_async._values.models import CodeChallengeMethod, UsageLimitType
from openrouter_async.redaction._masks import mask, mask_key, mask_optional

FAULT_PREFIX: Final = re.compile(r"fault\.(?P<spec>[a-z0-9.-]{1,64})~")
"""Matches the prefix of a code whose exchanges meet a fault."""

USER_ID: Final = "user_sandbox"
"""The id of the default user."""

_VERIFIER: Final = re.compile(r"[A-Za-z0-9\-._~]{43,128}")


class Refusal(enum.Enum):
    """The reason why a code is not redeemed."""

    INVALID_CODE = "invalid code"
    """The code is unknown or used."""
    EXPIRED = "expired"
    """The code has expired."""
    WRONG_METHOD = "wrong method"
    """The challenge method differs from the one given with the challenge."""
    WRONG_VERIFIER = "wrong verifier"
    """The verifier does not match the challenge, or one of the two is missing."""


class CodeRefusedError(Exception):
    """A refusal to redeem a code, which does not use the code up.

    Attributes:
        refusal: The reason.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@attrs.frozen(kw_only=True)
class KeyOptions:
    """The properties of a key to issue.

    Attributes:
        user_id: The id of its user; None for a user whom OpenRouter does not name.
        label: Its name.
        limit: Its credit limit in US dollars; None for no limit.
        usage_limit_type: When the limit resets; None for never.
        expires_at: When it expires; None for never.
        workspace_id: The workspace that it belongs to.
    """

    user_id: str | None = USER_ID
    label: str | None = None
    limit: float | None = None
    usage_limit_type: UsageLimitType | None = None
    expires_at: datetime | None = None
    workspace_id: str | None = None


@attrs.frozen(kw_only=True)
class IssuedCode:
    """An authorization code that was issued.

    Attributes:
        code: The code.
        created_at: Seconds since the epoch.
        code_challenge: The PKCE challenge; None if there is none.
        code_challenge_method: How the challenge was derived.
        callback_url: The URL that the code was sent to; None in a headless login.
        key: The properties of its key.
    """

    code: str = attrs.field(repr=mask)
    created_at: float
    code_challenge: str | None = attrs.field(default=None, repr=mask_optional)
    code_challenge_method: CodeChallengeMethod = CodeChallengeMethod.S256
    callback_url: str | None = attrs.field(default=None, repr=mask_optional)
    key: KeyOptions = KeyOptions()


@attrs.frozen(kw_only=True)
class IssuedKey:
    """An API key that was issued.

    Attributes:
        key: The API key.
        hash: Its SHA-256 in lowercase hex, by which OpenRouter's pages name it.
        code: The authorization code that it was issued for.
        user_id: The id of its user.
        label: Its name.
        limit: Its credit limit in US dollars; None for no limit.
        usage_limit_type: When the limit resets; None for never.
        created_at: The time of issue.
        expires_at: When it expires; None for never.
        workspace_id: The workspace that it belongs to.
    """

    key: str = attrs.field(repr=mask_key)
    hash: str
    code: str = attrs.field(repr=mask)
    user_id: str | None
    label: str | None
    limit: float | None
    usage_limit_type: UsageLimitType | None
    created_at: datetime
    expires_at: datetime | None
    workspace_id: str | None


class Authority:
    """Issues codes, and redeems each of them at most once.

    Each method is atomic, also between threads.

    Args:
        now: Returns the seconds since the epoch.
        code_lifetime: Seconds for which a code can be redeemed.
        capacity: The maximum number of codes, and of keys, to remember; the oldest are forgotten.
    """

    def __init__(self, now: Callable[[], float], *, code_lifetime: float, capacity: int) -> None:
        self.now = now
        self._lifetime = code_lifetime
        self._capacity = capacity
        self._lock = threading.Lock()
        self._codes: OrderedDict[str, IssuedCode] = OrderedDict()
        self._keys: OrderedDict[str, IssuedKey] = OrderedDict()

    def issue(
        self,
        *,
        code_challenge: str | None = None,
        code_challenge_method: CodeChallengeMethod | None = None,
        callback_url: str | None = None,
        key: KeyOptions = KeyOptions(),
        prefix: str = "",
    ) -> IssuedCode:
        """Issue a code.

        Args:
            code_challenge: The PKCE challenge; None if there is none.
            code_challenge_method: How the challenge was derived; None means ``plain``, as RFC 7636, section 4.3, says.
            callback_url: The URL that the code is sent to.
            key: The properties of its key.
            prefix: The start of the code.
        """
        issued = IssuedCode(
            code=f"{prefix}auth_code_{secrets.token_urlsafe(24)}",
            created_at=self.now(),
            code_challenge=code_challenge,
            code_challenge_method=code_challenge_method or CodeChallengeMethod.PLAIN,
            callback_url=callback_url,
            key=key,
        )
        with self._lock:
            self._codes[issued.code] = issued
            self._forget()
        return issued

    def redeem(
        self, code: str, code_verifier: str | None, code_challenge_method: CodeChallengeMethod | None
    ) -> IssuedKey:
        """Exchange a code for a key, at most once.

        A refusal does not use the code up, so that nobody can take it from its owner by guessing verifiers.

        Args:
            code: The code. An issued code is also accepted with the name of a fault in front of it.
            code_verifier: The verifier; None if the request has none.
            code_challenge_method: How its challenge was derived; None if the request does not say.

        Raises:
            CodeRefusedError: The code is not valid, or the verifier or the method does not match.
        """
        with self._lock:
            return self._redeem(code, code_verifier, code_challenge_method)

    def find_valid_key(self, key: str) -> IssuedKey | None:
        """Return the record of a key, or None if it was not issued here, was revoked, or has expired."""
        issued = self._keys.get(hash_key(key))
        if issued is not None and issued.expires_at is not None and issued.expires_at.timestamp() <= self.now():
            return None
        return issued

    def revoke(self, key_hash: str) -> bool:
        """Forget a key, as OpenRouter does when its user deletes it.

        Returns:
            Whether a key with this hash was known.
        """
        with self._lock:
            return self._keys.pop(key_hash, None) is not None

    def _redeem(self, code: str, code_verifier: str | None, method: CodeChallengeMethod | None) -> IssuedKey:
        # A client may ask for a fault by putting its name in front of a code that was issued without one.
        found = self._codes.get(code) or self._codes.get(FAULT_PREFIX.sub("", code, count=1))
        if found is None:
            raise CodeRefusedError(Refusal.INVALID_CODE)
        if self.now() >= found.created_at + self._lifetime:
            raise CodeRefusedError(Refusal.EXPIRED)
        challenged_by = None if found.code_challenge is None else found.code_challenge_method
        if method is not None and method is not challenged_by:
            raise CodeRefusedError(Refusal.WRONG_METHOD)
        if not _verifies(found, code_verifier):
            raise CodeRefusedError(Refusal.WRONG_VERIFIER)
        del self._codes[found.code]
        return self._issue_key(found)

    def _issue_key(self, code: IssuedCode) -> IssuedKey:
        key = f"sk-or-v1-{secrets.token_hex(32)}"
        issued = IssuedKey(
            key=key,
            hash=hash_key(key),
            code=code.code,
            created_at=datetime.fromtimestamp(self.now(), UTC),
            **attrs.asdict(code.key),
        )
        self._keys[issued.hash] = issued
        if len(self._keys) > self._capacity:
            self._keys.popitem(last=False)
        return issued

    def _forget(self) -> None:
        # An expired code is kept for one more lifetime, so that it is refused as expired; then as unknown.
        forgotten = self.now() - 2 * self._lifetime
        while len(self._codes) > self._capacity or next(iter(self._codes.values())).created_at < forgotten:
            self._codes.popitem(last=False)


def hash_key(key: str) -> str:
    """Return the SHA-256 of a key in lowercase hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def to_method(value: str | None) -> CodeChallengeMethod | None:
    """Parse a challenge method; None stays None.

    Raises:
        ValueError: The method is neither ``S256`` nor ``plain``.
    """
    return None if value is None else CodeChallengeMethod(value)


def _verifies(code: IssuedCode, verifier: str | None) -> bool:
    if code.code_challenge is None or verifier is None:
        # A verifier without a challenge is the sign of a downgrade attack (RFC 9700, section 4.8.2).
        return code.code_challenge is None and verifier is None
    if not _VERIFIER.fullmatch(verifier):
        return False
    challenge = verifier
    if code.code_challenge_method is CodeChallengeMethod.S256:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return hmac.compare_digest(challenge.encode(), code.code_challenge.encode(errors="replace"))
