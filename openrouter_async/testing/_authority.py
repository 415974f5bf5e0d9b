"""What OpenRouter knows and decides: codes, keys and their rules, without HTTP."""

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
from openrouter_async.redaction import mask, mask_key, mask_optional
from openrouter_async.testing.faults import FAULT_PREFIX

USER_ID: Final = "user_sandbox"
"""Who consents, unless somebody else is named."""

_VERIFIER: Final = re.compile(r"[A-Za-z0-9\-._~]{43,128}")


class Refusal(enum.Enum):
    """Why a code is not redeemed."""

    INVALID_CODE = "invalid code"
    """Unknown, or used."""
    EXPIRED = "expired"
    """Older than codes may be."""
    WRONG_METHOD = "wrong method"
    """The method is not the one that the challenge came with."""
    WRONG_VERIFIER = "wrong verifier"
    """The verifier does not belong to the challenge, or is missing, or there is no challenge."""


class CodeRefusedError(Exception):
    """A code is not redeemed, and stays as it is.

    Attributes:
        refusal: Why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@attrs.frozen(kw_only=True)
class KeyOptions:
    """What a key will be like.

    Attributes:
        user_id: Whose it is; None is a user whom OpenRouter does not name.
        label: Its name.
        limit: Its credit limit in US dollars; None is no limit.
        usage_limit_type: When the limit resets; None is never.
        expires_at: When it expires; None is never.
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
        code: It.
        created_at: Seconds since the epoch.
        code_challenge: The challenge that it answers to; None for none.
        code_challenge_method: How the challenge was derived.
        callback_url: Where it was sent; None in a headless login.
        key: What its key will be like.
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
        key: It.
        hash: What OpenRouter's pages name it by: its SHA-256 in lowercase hex.
        code: The authorization code that it was given for.
        user_id: Whose it is.
        label: Its name.
        limit: Its credit limit in US dollars; None is no limit.
        usage_limit_type: When the limit resets; None is never.
        created_at: When it was issued.
        expires_at: When it expires; None is never.
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

    Each of its methods is one step for everybody, in other threads as well.

    Args:
        now: Gives seconds since the epoch.
        code_lifetime: Seconds for which a code can be redeemed.
        capacity: How many codes and how many keys it remembers; the oldest are forgotten.
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
            code_challenge: The challenge that it answers to; None for none.
            code_challenge_method: How the challenge was derived; None means ``plain``, as RFC 7636, section 4.3, says.
            callback_url: Where it is sent.
            key: What its key will be like.
            prefix: What the code starts with.
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
        """Give a key for a code, and never again.

        A refusal leaves the code as it was, so that who guesses verifiers cannot take it from its owner.

        Args:
            code: The code; one that was issued is known behind a fault's name, too.
            code_verifier: The verifier; None when there is none.
            code_challenge_method: How its challenge was derived; None when it is not said.

        Raises:
            CodeRefusedError: It is not to be redeemed, or not so.
        """
        with self._lock:
            return self._redeem(code, code_verifier, code_challenge_method)

    def find_key(self, key_hash: str) -> IssuedKey | None:
        """The key with this hash; None when there is none."""
        return self._keys.get(key_hash)

    def find_valid_key(self, key: str) -> IssuedKey | None:
        """What is known of a key; None when it was not issued here, was revoked, or has expired."""
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

    @property
    def outstanding(self) -> int:
        """How many codes are remembered that were not redeemed."""
        return len(self._codes)

    def _redeem(self, code: str, code_verifier: str | None, method: CodeChallengeMethod | None) -> IssuedKey:
        # Who asks for a fault may put its name in front of a code that was issued without.
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
        # For as long again as it lived, a code is known to be expired; then it is one that never was.
        forgotten = self.now() - 2 * self._lifetime
        while len(self._codes) > self._capacity or next(iter(self._codes.values())).created_at < forgotten:
            self._codes.popitem(last=False)


def hash_key(key: str) -> str:
    """The SHA-256 of a key, in lowercase hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def to_method(value: str | None) -> CodeChallengeMethod | None:
    """Parse a challenge method; None stays None.

    Raises:
        ValueError: It is neither ``S256`` nor ``plain``.
    """
    return None if value is None else CodeChallengeMethod(value)


def _verifies(code: IssuedCode, verifier: str | None) -> bool:
    if code.code_challenge is None or verifier is None:
        # A verifier without a challenge is what a downgrade looks like: RFC 9700, section 4.8.2.
        return code.code_challenge is None and verifier is None
    if not _VERIFIER.fullmatch(verifier):
        return False
    challenge = verifier
    if code.code_challenge_method is CodeChallengeMethod.S256:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return hmac.compare_digest(challenge.encode(), code.code_challenge.encode(errors="replace"))
