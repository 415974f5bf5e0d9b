from __future__ import annotations

import pytest

from openrouter_async import errors
from openrouter_async.errors import OpenRouterError, Outcome
from openrouter_async.integrations.web._failures import LoginFailure, describe
from openrouter_async.login import errors as login_errors
from openrouter_async.login._problems import status_of


def api_error(status: int, message: str = "No", outcome: Outcome = Outcome.REFUSED) -> errors.APIError:
    return errors.APIError.for_status(status)(message, status_code=status, outcome=outcome)


def transport_error(outcome: Outcome) -> errors.TransportError:
    return errors.TransportError("no answer", outcome=outcome)


LOGIN_ERRORS = {
    "AuthorizationDeniedError": 403,
    "AuthorizationError": 502,
    "CodeRejectedError": 400,
    "InvalidCallbackError": 400,
    "InvalidCookieError": 400,
    "KeyRefusedError": 400,
    "LoginAlreadyUsedError": 409,
    "LoginBindingError": 400,
    "LoginCancelledError": 410,
    "LoginError": 400,
    "LoginExpiredError": 410,
    "LoginInProgressError": 409,
    "LoginLostError": 502,
    "LoginStoreError": 503,
    "LoginTimeoutError": 400,
    "LoopbackUnavailableError": 400,
    "StateMismatchError": 400,
    "UnknownLoginError": 400,
}


def test_every_login_error_has_a_status() -> None:
    assert set(LOGIN_ERRORS) == set(login_errors.__all__)


@pytest.mark.parametrize(("name", "status"), LOGIN_ERRORS.items())
def test_login_error_status_says_who_has_to_act(name: str, status: int) -> None:
    error = getattr(login_errors, name)("no")
    assert status_of(error) == status
    # A user is told how to continue, and a failure of the server is not reported as the user's mistake.
    assert (status < 500) or error.outcome is not Outcome.NOT_SENT or not error.restart_login


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (api_error(403, "Invalid code or code_verifier"), 400),
        (api_error(403, "Invalid code", Outcome.UNKNOWN), 502),
        (api_error(401), 500),
        (api_error(429), 503),
        (api_error(500, outcome=Outcome.UNKNOWN), 502),
        (transport_error(Outcome.NOT_SENT), 503),
        (transport_error(Outcome.UNKNOWN), 502),
        (errors.ResponseValidationError("odd", status_code=200), 502),
        (errors.RequestValidationError("next", "odd"), 400),
        (errors.ClientClosedError("closed"), 503),
    ],
)
def test_exchange_error_status_says_who_has_to_act(error: OpenRouterError, status: int) -> None:
    assert status_of(error) == status


def failure_of(error: OpenRouterError, *, return_to: str | None = None, lacks_cookie: bool = False) -> LoginFailure:
    return describe(error, login_url="/login", return_to=return_to, home_url="/home", lacks_cookie=lacks_cookie)


def test_failure_page_links_to_the_next_step() -> None:
    over = failure_of(login_errors.LoginExpiredError("late"), return_to="/a?b=c&d")
    not_yet = failure_of(login_errors.LoginInProgressError("busy"), return_to="/a")

    assert '<a href="/login?next=%2Fa%3Fb%3Dc%26d">Sign in again</a>' in over.page
    assert '<a href="/home">Back to the app</a>' in over.page
    assert "Try again" not in over.page
    assert '<a href="">Try again</a>' in not_yet.page
    assert "Sign in again" not in not_yet.page


def test_failure_page_escapes_its_text() -> None:
    failure = LoginFailure(status=400, title="<b>", message="a & <i>", login_url='/"><script>', home_url="/")
    assert "<b>" not in failure.page
    assert "a &amp; &lt;i&gt;" in failure.page
    assert "<script" not in failure.page


def test_failure_retry_after_is_in_whole_seconds() -> None:
    busy = errors.APIError.for_status(429)("No", status_code=429, outcome=Outcome.REFUSED, retry_after=1.2)
    assert failure_of(busy).headers == {"Retry-After": "2"}
    assert failure_of(login_errors.LoginError("no")).headers == {}
    assert LoginFailure(status=400, title="", message="").headers == {}
