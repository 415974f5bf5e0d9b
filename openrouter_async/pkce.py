"""Proof Key for Code Exchange: a secret verifier and a public challenge (RFC 7636).

::

    pair = PKCEPair.generate()
    pair.code_challenge  # goes into the URL that the user opens
    pair.code_verifier  # goes with the code, and nowhere else
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Final, Self

import attrs

from openrouter_async._values.frames import hide_arguments, hide_init_arguments
from openrouter_async._values.models import CodeChallengeMethod, to_code_challenge_method, validate_code_verifier
from openrouter_async.redaction._masks import mask

__all__ = ["PKCEPair", "code_challenge", "generate_code_verifier"]

# 48 bytes give 64 characters. The 32 bytes that RFC 7636 suggests would give 43, the length of an S256 challenge, so a
# check could not tell a verifier that was put into a URL by mistake from a challenge.
_ENTROPY: Final = 48


def generate_code_verifier() -> str:
    """Generate a code verifier of 64 characters with 384 bits of entropy.

    See Also:
        RFC 7636, sections 4.1 and 7.1.
    """
    return secrets.token_urlsafe(_ENTROPY)


@hide_arguments
def code_challenge(code_verifier: str, method: CodeChallengeMethod | str = CodeChallengeMethod.S256) -> str:
    """Derive the challenge of a verifier.

    Args:
        code_verifier: 43 to 128 characters of ``A-Z a-z 0-9 - . _ ~``.
        method: ``S256`` hashes the verifier. ``plain`` uses it unchanged, so anyone with the URL can use the
            code; choose it only if the server does not support ``S256``.

    Raises:
        RequestValidationError: The verifier or the method is not valid.

    See Also:
        RFC 7636, section 4.2.
    """
    verifier = validate_code_verifier("code_verifier", code_verifier)
    if to_code_challenge_method(method) is CodeChallengeMethod.PLAIN:
        return verifier
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _is_verifier(_instance: object, attribute: attrs.Attribute[str], value: object) -> None:
    validate_code_verifier(attribute.name, value)


@hide_init_arguments
@attrs.frozen(kw_only=True)
class PKCEPair:
    """A verifier with its challenge.

    Attributes:
        code_verifier: The secret verifier, which the repr does not show.
        code_challenge_method: How the challenge is derived.

    Raises:
        RequestValidationError: The verifier or the method is not valid.
    """

    code_verifier: str = attrs.field(repr=mask, validator=_is_verifier)
    code_challenge_method: CodeChallengeMethod = attrs.field(
        default=CodeChallengeMethod.S256, converter=to_code_challenge_method
    )

    @classmethod
    def generate(cls, method: CodeChallengeMethod | str = CodeChallengeMethod.S256) -> Self:
        """Generate a new pair.

        Args:
            method: How the challenge is derived: ``S256``, or ``plain`` as for `code_challenge`.

        Raises:
            RequestValidationError: The method is not valid.
        """
        return cls(code_verifier=generate_code_verifier(), code_challenge_method=method)

    @property
    def code_challenge(self) -> str:
        """The challenge for the URL; with ``plain``, the verifier itself."""
        return code_challenge(self.code_verifier, self.code_challenge_method)
