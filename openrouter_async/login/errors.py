"""The errors of a login, in addition to those of the exchange itself.

::

    OpenRouterError
    └── LoginError                        a login cannot go on
        ├── InvalidCallbackError          the callback is malformed, or too large
        ├── CodeRejectedError             OpenRouter refused a pasted code; another one can be pasted
        ├── StateMismatchError            its state is missing, malformed, or differs between path and query
        ├── UnknownLoginError             no such login: never started here, or long over
        ├── LoginBindingError             it belongs to another browser or chat
        ├── InvalidCookieError            its cookie was altered, cut off, or encrypted with a retired key
        ├── LoginExpiredError             it took too long
        ├── LoginAlreadyUsedError         it is over, and this callback does not get its key
        ├── LoginInProgressError          another callback of it is still being processed
        ├── LoginLostError                its worker died; its code may have been used
        ├── AuthorizationError            OpenRouter sent the user back without a code
        │   └── AuthorizationDeniedError  because the user denied access
        ├── LoginTimeoutError             nobody finished it in time (TimeoutError)
        ├── LoginCancelledError           the app gave it up
        ├── KeyRefusedError               the key was issued, but OpenRouter refuses it; never raised by a login
        ├── LoopbackUnavailableError      no local port can be listened on
        └── LoginStoreError               the store cannot be reached, or a value in it cannot be read
"""

from __future__ import annotations

from typing import Any, Final

from openrouter_async.errors import OpenRouterError, Outcome

__all__ = [
    "AuthorizationDeniedError",
    "AuthorizationError",
    "CodeRejectedError",
    "InvalidCallbackError",
    "InvalidCookieError",
    "KeyRefusedError",
    "LoginAlreadyUsedError",
    "LoginBindingError",
    "LoginCancelledError",
    "LoginError",
    "LoginExpiredError",
    "LoginInProgressError",
    "LoginLostError",
    "LoginStoreError",
    "LoginTimeoutError",
    "LoopbackUnavailableError",
    "StateMismatchError",
    "UnknownLoginError",
]

_KNOWN_ERRORS: Final = frozenset(
    {
        "access_denied",
        "invalid_request",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_response_type",
    }
)
_TOOK_TOO_LONG: Final = "This sign-in took too long. Please sign in again."


class LoginError(OpenRouterError):
    """A login cannot continue. Nothing was sent, unless the outcome says otherwise.

    Attributes:
        return_to: The ``return_to`` of the login; None if it had none, or if the callback does not tell which login it
            was.
    """

    _user_message: str | None = "This sign-in is not valid. Please sign in again."
    _restart_login: bool = True

    def __init__(self, message: str, *, outcome: Outcome = Outcome.NOT_SENT, return_to: str | None = None) -> None:
        super().__init__(message, outcome=outcome)
        self.return_to = return_to

    @property
    def user_message(self) -> str:
        """Return a sentence that is safe to show to the user."""
        return self._user_message or super().user_message

    @property
    def restart_login(self) -> bool:
        """Return whether the user has to sign in again from the start."""
        return self._restart_login


class InvalidCallbackError(LoginError):
    """The callback or the pasted text is not valid."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.let_user_retry(hint)

    def let_user_retry(self, hint: str) -> None:
        """Change the error to that of a pasted text: the login goes on, and the user pastes another one.

        Args:
            hint: The new `user_message`.
        """
        self._user_message = hint
        self._restart_login = False


class CodeRejectedError(LoginError):
    """OpenRouter refused a code that the user pasted. The login goes on: another code can be pasted."""

    _user_message = "OpenRouter did not accept this code. Please copy the whole code, and paste it again."
    _restart_login = False

    def __init__(self, message: str) -> None:
        super().__init__(message, outcome=Outcome.REFUSED)


class StateMismatchError(LoginError):
    """The state of the callback is missing, malformed, or differs between path and query."""


class UnknownLoginError(LoginError):
    """No login with this state: it was never started here, is long over, or its cookie is in another browser."""

    _user_message = "This sign-in is not known here, or no longer. Please sign in again, and stay in one browser."


class LoginBindingError(LoginError):
    """The login was started in another browser or chat than the one that came back."""

    _user_message = "This sign-in was started in another browser. Please finish it there, or sign in again here."


class InvalidCookieError(LoginError):
    """The login's cookie was altered, cut off, made for another login, or encrypted with a retired key."""


class LoginExpiredError(LoginError):
    """The login took longer than its lifetime."""

    _user_message = _TOOK_TOO_LONG


class LoginAlreadyUsedError(LoginError):
    """The login is finished, and its result does not belong to this callback or is no longer kept."""

    _user_message = "This sign-in is already finished. Please sign in again if you are not signed in."


class LoginInProgressError(LoginError):
    """Another callback of the same login is being processed; this one may be tried again."""

    _user_message = "This sign-in is still being finished. Please reload in a moment."
    _restart_login = False


class LoginLostError(LoginError):
    """A worker died while exchanging the code, which is now refused. A key may exist that nobody has."""

    _user_message = None

    def __init__(self, message: str) -> None:
        super().__init__(message, outcome=Outcome.UNKNOWN)


class AuthorizationError(LoginError):
    """OpenRouter sent the user back with an error instead of a code (RFC 6749, section 4.1.2.1).

    Attributes:
        error: The error code, such as ``server_error``; ``unknown`` if it is not well-formed.
        context: The ``context`` of the login; None if the callback does not tell which login it was.
    """

    _user_message = "OpenRouter did not complete the sign-in. Please try again."

    def __init__(self, error: str, *, context: Any = None, return_to: str | None = None) -> None:
        # The error comes from the browser, so messages and logs show only the codes of the RFC.
        known = f"the error {error}" if error in _KNOWN_ERRORS else "an error"
        super().__init__(f"OpenRouter sent the user back with {known}", outcome=Outcome.REFUSED, return_to=return_to)
        self.error = error
        self.context = context


class AuthorizationDeniedError(AuthorizationError):
    """The user denied access."""

    _user_message = "You cancelled the sign-in."


class LoginTimeoutError(LoginError, TimeoutError):
    """Nobody finished the login in time."""

    _user_message = _TOOK_TOO_LONG


class LoginCancelledError(LoginError):
    """The login was cancelled before it was finished."""

    _user_message = "This sign-in was cancelled. Please sign in again."


class KeyRefusedError(LoginError):
    """OpenRouter issued a key but refuses it: the ``key_error`` of a `Grant`, whose cause is the refusal."""

    _user_message = (
        "OpenRouter issued a key for this app but refuses it. Please check your account's settings there: a maximum "
        "lifetime of keys, or a list of allowed addresses, can forbid it."
    )
    _restart_login = False

    def __init__(self, message: str) -> None:
        super().__init__(message, outcome=Outcome.REFUSED)


class LoopbackUnavailableError(LoginError):
    """No local port can be listened on."""

    _user_message = "This computer does not let the app wait for the browser. Please sign in with a code instead."


class LoginStoreError(LoginError):
    """The store of pending logins cannot be reached, or a value in it cannot be read."""

    _user_message = "Signing in is not possible at the moment. Please try again in a moment."
    _restart_login = False
