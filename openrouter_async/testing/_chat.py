"""Chat completions that repeat the last message, so that an app can try its new key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from openrouter_async.testing._bodies import MalformedBodyError, parse
from openrouter_async.testing._dialects import Answer, Problem

_ID: Final = "gen-sandbox"


def complete(content: bytes, *, created: int) -> Answer:
    """Answer ``POST /chat/completions``, as a stream of events if the body asks for one.

    Args:
        content: The body of the request.
        created: The time of the answer, in seconds since the epoch.

    Returns:
        A completion that repeats the text of the last message.

    Raises:
        MalformedBodyError: The body has no model or no messages.
    """
    body = parse(content)
    model, messages = body.get("model", "openrouter/auto"), body.get("messages")
    if not isinstance(model, str):
        raise MalformedBodyError(Problem("model", "must be a string", "string"))
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise MalformedBodyError(Problem("messages", "must be an array of one or more messages", "array"))
    if not isinstance(body.get("stream", False), bool):
        raise MalformedBodyError(Problem("stream", "must be a boolean", "boolean"))
    text = f"The sandbox heard: {_text_of(messages[-1])}"
    usage = {"prompt_tokens": len(messages), "completion_tokens": len(text.split()), "cost": 0}
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    # OpenRouter names the provider that answered; pydantic-ai requires it.
    shared = {"id": _ID, "created": created, "model": model, "provider": "Sandbox", "system_fingerprint": None}
    if body.get("stream"):
        return Answer(200, {}, events=_stream(shared, text, usage))
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "native_finish_reason": "stop", "logprobs": None}
    return Answer(200, {**shared, "object": "chat.completion", "choices": [choice], "usage": usage})


def _stream(shared: Mapping[str, Any], text: str, usage: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    parts = re.findall(r"\s*\S+|\s+$", text)
    deltas = [*((part, None) for part in parts), ("", "stop")]
    chunk = {**shared, "object": "chat.completion.chunk", "system_fingerprint": "sandbox"}
    events: list[dict[str, Any]] = [
        {**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": part}, "finish_reason": reason}]}
        for part, reason in deltas
    ]
    events[-1]["usage"] = usage
    return events


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
