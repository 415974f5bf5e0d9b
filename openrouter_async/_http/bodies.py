"""Read the body of an answer, within bounds, and keep the key that a broken one may hold."""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from typing import Final

import aiohttp

from openrouter_async._http.aiohttp_parts import Body
from openrouter_async.errors import ResponseValidationError

BODY_LIMIT: Final = 1_048_576
"""The maximum number of bytes of a body, before and after decompression."""

_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32


class EarlyAnswerError(Exception):
    """There was an answer before the request was written."""


class _UnreadableBodyError(Exception):
    reason: str


class _BodyTooLargeError(_UnreadableBodyError):
    reason = f"is larger than {BODY_LIMIT} bytes"


class _UndecodableBodyError(_UnreadableBodyError):
    reason = "cannot be decompressed"


async def read_body(answer: aiohttp.ClientResponse, sent: Body) -> bytes:
    """Read the body of an answer completely; an unreadable one is empty when the status tells enough.

    Raises:
        EarlyAnswerError: The answer came before the request was written, so it belongs to another request.
        ResponseValidationError: The answer is too large or cannot be decompressed.
    """
    connection = answer.connection
    if sent.refused or (connection is not None and not sent.written):
        sent.note_connection(connection and connection.protocol)
        raise EarlyAnswerError
    try:
        content = answer.content
        if content.is_eof():
            # A short body arrives in the same segment as the headers, so there is no need to wait.
            body = content.read_nowait()
        else:
            is_success = 200 <= answer.status < 300
            body = await _read_on(content, sent, is_success=is_success, length=answer.content_length)
            if not content.is_eof():
                # The framing is broken; aiohttp would keep the connection in the pool's count.
                answer.close()
        if len(body) > BODY_LIMIT:
            raise _BodyTooLargeError
        encoding = answer.headers.get("Content-Encoding")
        return body if encoding is None else _decompress(body, encoding)
    except _UnreadableBodyError as failure:
        answer.close()
        if answer.status >= 400:
            # The status determines the error; the body would add only a message.
            return b""
        reason = failure.reason
        # A traceback that shows local variables would show a key in it.
        body = b""
    raise ResponseValidationError(
        f"{answer.status}: the body {reason}", status_code=answer.status, headers=answer.headers.copy()
    )


async def _read_on(content: aiohttp.StreamReader, sent: Body, *, is_success: bool, length: int | None) -> bytes:
    if length is not None and length > BODY_LIMIT:
        raise _BodyTooLargeError
    # No frame here may hold the response: its connection would be left to the cyclic garbage collector.
    body = bytearray()
    if is_success:
        sent.received = body
    try:
        while chunk := await content.readany():
            body += chunk
            if len(body) > BODY_LIMIT:
                break
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
        # The framing is broken, but the bytes so far may be the whole JSON. Keep its key, because the code is used up.
        with suppress(Exception):
            # Only this private method returns the bytes from before the failure; the public ones raise it.
            body += content._read_nowait(-1)  # noqa: SLF001
        if not (is_success and is_json_object(body)):
            raise
    return bytes(body)


def is_json_object(body: bytes | bytearray) -> bool:
    """Return whether a body is one complete JSON object."""
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _decompress(body: bytes, encoding: str) -> bytes:
    # The request asks for "identity", but an answer that is compressed nevertheless may hold a key.
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        # Some servers send values that are not compressions, such as "utf-8", "none" or "aws-chunked".
        if is_json_object(body):
            return body
        raise _UndecodableBodyError
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        text = decompressor.decompress(body, BODY_LIMIT + 1)
    except zlib.error:
        if is_json_object(body):
            return body
        raise _UndecodableBodyError from None
    if len(text) > BODY_LIMIT:
        raise _BodyTooLargeError
    if not decompressor.eof:
        raise _UndecodableBodyError
    return text
