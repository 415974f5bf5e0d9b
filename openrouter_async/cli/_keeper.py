"""Keeping a key that was just issued, and telling about it."""

from __future__ import annotations

from typing import Any

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.cli._exit import ExitCode
from openrouter_async.cli._options import Output
from openrouter_async.cli._storage import Place, rescue_place
from openrouter_async.login._models import Grant
from openrouter_async.redaction import mask_key
from openrouter_async.sinks._base import KeySinkError


def describe(grant: Grant) -> dict[str, Any]:
    """What may be shown of a key."""
    return {
        "key": mask_key(grant.key),
        "key_hash": grant.key_hash,
        "user_id": grant.user_id,
        "settings_url": grant.settings_url,
        "logs_url": grant.logs_url,
    }


class Keeper:
    """Keeps the key of an exchange, as ``on_key``: also when the user interrupts the command meanwhile.

    Args:
        place: Where the key goes; None prints it.
        output: How to tell.

    Attributes:
        status: The exit status of the command: a key that is elsewhere than the user wants is a failure.
    """

    def __init__(self, place: Place | None, output: Output) -> None:
        self._place = place
        self._output = output
        self.status = ExitCode.DONE

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        """Keep the key of an exchange.

        Raises:
            KeySinkError: It cannot be kept anywhere.
        """
        grant = Grant(key=response.key, user_id=response.user_id)
        place = self._place
        if place is None:
            self._print(grant)
            return
        try:
            await place.vault.save(grant.key, user_id=grant.user_id)
        except KeySinkError as failure:
            place = rescue_place(grant.key_hash)
            await place.vault.save(grant.key, user_id=grant.user_id)
            self.status = ExitCode.FAILED
            self._output.tell(f"The key could not be kept where you wanted it: {failure}.")
        document = describe(grant) | {"stored_in": place.kind.value, "stored_at": place.where}
        who = "Signed in" if grant.user_id is None else f"Signed in as {grant.user_id}"
        self._output.result(
            document,
            (
                f"{who}. The key {mask_key(grant.key)} is in {place.where}.",
                f"Its limits, and how to delete it: {grant.settings_url}",
            ),
        )

    def _print(self, grant: Grant) -> None:
        self._output.result(describe(grant) | {"key": grant.key, "stored_in": "print", "stored_at": None}, (grant.key,))
        self._output.note(f"This key is kept nowhere. Its limits, and how to delete it: {grant.settings_url}")
