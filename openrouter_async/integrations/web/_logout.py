"""Signing out: the app forgets the key, and the user is told where to delete it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from openrouter_async.errors import OpenRouterError
from openrouter_async.integrations._hooks import call_hook
from openrouter_async.integrations.web._answers import prefers_json
from openrouter_async.integrations.web._framework import RequestT, ResponseT
from openrouter_async.integrations.web._site import LoginSite
from openrouter_async.login._models import Grant
from openrouter_async.login._pages import PRIVACY_HEADERS, render
from openrouter_async.sinks._base import KeyVault

_ALL_KEYS_URL: Final = "https://openrouter.ai/settings/keys"
_MESSAGE: Final = "This app has forgotten your key. The key itself stays valid until you delete it at OpenRouter."


async def log_out(site: LoginSite[RequestT, ResponseT], request: RequestT) -> ResponseT:
    """Call the app's hook for signing out; see `WebLogin.logout`."""
    info = site.framework.read_request(request)
    site.check_origin(info)
    try:
        response = None if site.on_logout is None else await call_hook(site.on_logout, request)
        if response is None:
            response = await sign_out(site, request)
    except OpenRouterError as error:
        failure = site.answers.failure_of(info, error)
        return await site.answers.fail(request, info, failure, path=site.paths.logout, as_json=True)
    site.framework.add_headers(response, PRIVACY_HEADERS, ())
    return response


async def sign_out(
    site: LoginSite[RequestT, ResponseT],
    request: RequestT,
    *,
    key: str | None = None,
    vaults: Iterable[KeyVault] = (),
) -> ResponseT:
    """Forget the key of a user, and return the answer; see `WebLogin.sign_out`."""
    info = site.framework.read_request(request)
    settings_url = None if key is None else Grant(key=key).settings_url
    del key
    failure: OpenRouterError | None = None
    for vault in vaults:
        try:
            stored = await vault.load()
            settings_url = settings_url or (None if stored is None else Grant(key=stored.key).settings_url)
            del stored
            await vault.delete()
        except OpenRouterError as error:
            # The other vaults must still delete the key.
            failure = failure or error
    if failure is not None:
        raise failure
    settings_url = settings_url or _ALL_KEYS_URL
    # A login that is still open in another tab must not sign the user in again.
    cookies = site.cookies.forget(info.cookies)
    if prefers_json(info.headers.get("Accept", ""), default=info.method != "GET"):
        return site.answers.json({"status": "signed_out", "settings_url": settings_url}, cookies=cookies)
    links = [("Delete the key at OpenRouter", settings_url), ("Back to the app", site.default_return_to)]
    return site.answers.page(200, render("Signed out", _MESSAGE, links), cookies=cookies)
