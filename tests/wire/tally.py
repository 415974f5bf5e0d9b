"""The results of many exchanges, counted."""

from __future__ import annotations

from collections import Counter

from openrouter_async import Outcome, errors


def show(title: str, tally: Counter[str]) -> None:
    print(f"\n{title}")
    for name, count in sorted(tally.items()):
        print(f"{count:>8}  {name}")


def how_it_failed(error: errors.OpenRouterError, issued: str | None) -> str:
    """Return the category of an error; fail if a key was lost by it."""
    if isinstance(error, errors.KeyDeliveryError):
        assert error.response.key == issued
        return "issued, handed over by KeyDeliveryError"
    if issued is None:
        return f"not issued, {error.outcome.name}"
    assert error.outcome is Outcome.UNKNOWN, (error, error.history)
    return "issued, UNKNOWN"
