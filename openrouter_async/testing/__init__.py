"""A fake OpenRouter for tests: a local server with real PKCE, single-use codes, consent pages, and faults on demand.

::

    async with FakeOpenRouter() as fake, OpenRouter(fake.token, base_url=fake.base_url) as client:
        code = fake.issue_code()
        result = await client.oauth.exchange_auth_code_for_api_key(code=code)
        assert fake.issued_keys[-1].key == result.key
"""

from openrouter_async.testing._authority import IssuedKey
from openrouter_async.testing._dialects import Dialect
from openrouter_async.testing._records import RecordedRequest
from openrouter_async.testing._server import FakeOpenRouter
from openrouter_async.testing._threads import in_thread
from openrouter_async.testing.faults import Fault, FaultKind

__all__ = [
    "Dialect",
    "FakeOpenRouter",
    "Fault",
    "FaultKind",
    "IssuedKey",
    "RecordedRequest",
    "in_thread",
]
