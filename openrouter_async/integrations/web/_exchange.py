"""The exchange of codes that a page of the app sends: with its own verifier, or pasted by the user."""

from __future__ import annotations

from openrouter_async.errors import OpenRouterError
from openrouter_async.integrations.web._bodies import read_fields
from openrouter_async.integrations.web._callback import fail, hand_over
from openrouter_async.integrations.web._framework import RequestT, ResponseT
from openrouter_async.integrations.web._site import LoginSite
from openrouter_async.integrations.web._start import find_return_to
from openrouter_async.login.errors import UnknownLoginError


async def exchange(site: LoginSite[RequestT, ResponseT], request: RequestT) -> ResponseT:
    """Exchange the code of a page that does PKCE itself; see `WebLogin.exchange`."""
    info = site.framework.read_request(request)
    site.check_origin(info)
    site.check_rejections(info)
    site.note_exchange(info)
    fields = await read_fields(site, request, info, ("code", "code_verifier"), ("code_challenge_method",))
    exchanging = site.flow.exchange(**fields, return_to=find_return_to(site, info))
    # A traceback that shows local variables would show the code.
    del fields
    try:
        grant = await exchanging
    except OpenRouterError as error:
        return await fail(site, request, info, error, path=site.paths.exchange, as_json=True)
    return await hand_over(site, request, grant)


async def complete(site: LoginSite[RequestT, ResponseT], request: RequestT) -> ResponseT:
    """Finish a login with a code that the user pasted; see `WebLogin.complete`."""
    info = site.framework.read_request(request)
    site.check_origin(info)
    site.check_rejections(info)
    fields = await read_fields(site, request, info, ("login", "code"))
    login = fields["login"]
    binding = site.find_binding(info, login)
    path = site.paths.complete
    if binding is None or binding.state is None:
        del fields, login
        unknown = UnknownLoginError("this browser did not start the login")
        return await fail(site, request, info, unknown, path=path, as_json=True)
    finishing = site.flow.finish_code(binding.state, fields["code"], binding=binding.value, cookies=info.cookies)
    del fields
    try:
        grant = await finishing
    except OpenRouterError as error:
        return await fail(site, request, info, error, path=path, login=login, binding=binding, as_json=True)
    return await hand_over(site, request, grant, login=login, binding=binding)
