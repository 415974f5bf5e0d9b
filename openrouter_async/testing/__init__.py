"""A fake OpenRouter to test against: a local server with real PKCE, single-use codes, pages, and faults on demand.

::

    async with FakeOpenRouter() as fake, OpenRouter(fake.token, base_url=fake.base_url) as client:
        code = fake.issue_code()
        result = await client.oauth.exchange_auth_code_for_api_key(code=code)
        assert fake.issued_keys[-1].key == result.key
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from openrouter_async.testing.authority import IssuedKey
    from openrouter_async.testing.dialects import Dialect
    from openrouter_async.testing.faults import Fault
    from openrouter_async.testing.records import RecordedRequest
    from openrouter_async.testing.server import FakeOpenRouter

# pytest imports this package at its start, for the plugin in it.
_HOMES: Final = {
    "Dialect": "dialects",
    "FakeOpenRouter": "server",
    "Fault": "faults",
    "IssuedKey": "authority",
    "RecordedRequest": "records",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


__all__ = [
    "Dialect",
    "FakeOpenRouter",
    "Fault",
    "IssuedKey",
    "RecordedRequest",
]
