from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Final

import pytest

from openrouter_async import Handler, OpenRouter, Request, Response, errors
from openrouter_async.login import AuthorizationError, AuthorizationFlow, InvalidCallbackError, PendingLogin
from openrouter_async.login._callbacks import read_pasted
from tests.fuzz.mutation import MAX_CPU_PER_KIB, Stopwatch, mutate, read_corpus
from tests.support import STRESS

pytestmark = pytest.mark.unmeasured

CALLBACKS: Final = 200_000 if STRESS else 2_000

CORPUS: Final = read_corpus("callbacks")
KEY: Final = "sk-or-v1-" + "a" * 64


def check_error(error: errors.OpenRouterError, pending: PendingLogin) -> str:
    """Check the texts of an error, and return the category to count it in."""
    assert pending.state not in str(error)
    assert str(error).isprintable()
    return type(error).__name__


STATE: Final = "s" * 43
REPEATED: Final = [
    *("code" + " " * 8000 + "x", "your " * 1600, "code" + " " * 1000 + "x" + "," * 1000, "code\t" * 1600, "," * 8192),
    *(
        '"' * 8192,
        "`" * 8192,
        "*" * 8192,
        "> " * 4096,
        "[" * 8192,
        "[x](" * 2000,
        "(" * 4096 + ")" * 4096,
        "code:" * 1600,
    ),
    *(
        "&amp;" * 1600,
        "%253d" * 1600 + "code%3d",
        "\ufdfa" * 8192,
        "\x1b[200~" * 1300,
        "a/" * 4096,
        ";code=" * 1300,
        "\u00ad" * 8192,
    ),
]


@pytest.mark.parametrize("text", REPEATED, ids=lambda text: ascii(text)[1:12])
def test_pasted_text_of_repeated_marks_is_read_in_linear_time(text: str) -> None:
    with Stopwatch() as reading, suppress(InvalidCallbackError):
        read_pasted(text, None, STATE)
    assert reading.seconds / (len(text) / 1024) < MAX_CPU_PER_KIB


@pytest.mark.stress
async def test_callback_of_any_bytes_is_a_library_error_or_a_grant_of_its_own_login() -> None:
    exchanged: list[bytes] = []

    async def answer(request: Request, _call_next: Handler) -> Response:
        exchanged.append(request.body)
        return Response(status_code=200, headers={}, body=f'{{"key": "{KEY}", "user_id": null}}'.encode(), elapsed=0.0)

    tally: Counter[str] = Counter()
    slowest = 0.0
    async with OpenRouter(None, middlewares=[answer]) as client:
        flow = AuthorizationFlow(client, callback_url="https://app.example/callback/{state}")
        pending: PendingLogin | None = None
        for seed in range(CALLBACKS):
            pending = pending or await flow.start(binding="browser")
            raw = mutate(CORPUS, seed).replace(b"{STATE}", pending.state.encode())
            callback = raw.decode("utf-8", "surrogateescape" if seed % 2 else "replace")
            sent = len(exchanged)
            try:
                with Stopwatch() as reading:
                    if seed % 5 == 0:
                        await flow.finish_code(pending.state, callback, binding="browser")
                    else:
                        await flow.finish(callback, binding="browser")
            except errors.OpenRouterError as error:
                tally[check_error(error, pending)] += 1
                ended, exchanges = isinstance(error, AuthorizationError), 0
            else:
                tally["a grant"] += 1
                ended, exchanges = True, 1
            assert len(exchanged) == sent + exchanges
            pending = None if ended else pending
            slowest = max(slowest, reading.seconds / max(1.0, len(raw) / 1024))
    print(f"\n{CALLBACKS} callbacks, slowest {1000 * slowest:.2f} ms of CPU for each KiB: {dict(tally.most_common())}")
    assert sum(tally.values()) == CALLBACKS
    assert tally["a grant"] > CALLBACKS * 0.02
    # Quadratic time would be seconds.
    assert slowest < MAX_CPU_PER_KIB
