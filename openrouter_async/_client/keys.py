"""Operations on API keys."""

from __future__ import annotations

from openrouter_async._client.operations import CURRENT_KEY
from openrouter_async._client.pipeline import Pipeline
from openrouter_async._http.chain import SendState
from openrouter_async._http.options import Bearer, RequestOptions
from openrouter_async._values.current_key import GetCurrentKeyResponse


class Keys:
    """The operations on API keys; every client has them as ``client.keys``.

    Args:
        pipeline: Carries out the calls.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def current(self, key: str, /, *, options: RequestOptions | None = None) -> GetCurrentKeyResponse:
        """Return the state of an API key: its limits, its usage, and when it expires.

        Args:
            key: The key, such as one from a user's sign-in.
            options: The options in which this call differs from its client.

        Returns:
            The state of the key.

        Raises:
            RequestValidationError: The key contains characters that cannot be sent; nothing was sent.
            UnauthorizedResponseError: The key is not valid: deleted, disabled, or expired. Its ``restart_login`` is
                True, and its ``user_message`` asks the user to sign in again.
            APIError: The server responded with another status of 400 or more.
            ResponseValidationError: The response is not what the API documents.
            TransportError: There was no HTTP response.
            ClientClosedError: The client is closed.

        See Also:
            ``getCurrentKey`` in https://openrouter.ai/docs/api-reference.
        """
        bearer = Bearer(key)
        # Tracebacks that show local variables would show the key.
        del key
        self._pipeline.shared.bind()
        return await self._pipeline.call(CURRENT_KEY, None, bearer, options, None, SendState())
