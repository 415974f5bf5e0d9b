from __future__ import annotations

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrouter_async import CodeChallengeMethod
from openrouter_async.errors import RequestValidationError
from openrouter_async.pkce import PKCEPair, code_challenge, generate_code_verifier

# RFC 7636, appendix B.
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
verifiers = st.text(UNRESERVED, min_size=43, max_size=128)


def test_challenge_of_the_rfc_vector_matches() -> None:
    assert code_challenge(VERIFIER) == CHALLENGE


@given(verifiers)
def test_challenge_s256_is_the_unpadded_base64url_of_the_hash(verifier: str) -> None:
    challenge = code_challenge(verifier, "S256")

    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", challenge)
    assert base64.urlsafe_b64decode(challenge + "=") == hashlib.sha256(verifier.encode()).digest()


@given(verifiers)
def test_challenge_plain_is_the_verifier(verifier: str) -> None:
    assert code_challenge(verifier, CodeChallengeMethod.PLAIN) == verifier


@given(st.text(max_size=200).filter(lambda text: not re.fullmatch(r"[A-Za-z0-9\-._~]{43,128}", text)))
def test_verifier_invalid_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(RequestValidationError, match="code_verifier") as caught:
        code_challenge(text)

    assert str(caught.value) == "code_verifier: must be 43 to 128 characters of A-Z a-z 0-9 - . _ ~ (RFC 7636)"


@pytest.mark.parametrize("method", ["s256", "S-256", "PLAIN", "", None, 256, "S256 "])
def test_code_challenge_method_misspelt_is_refused(method: str) -> None:
    with pytest.raises(RequestValidationError, match="code_challenge_method: must be S256 or plain"):
        code_challenge(VERIFIER, method)


def test_generated_verifiers_are_valid_distinct_and_longer_than_a_challenge() -> None:
    made = {generate_code_verifier() for _ in range(1000)}

    assert len(made) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9\-._~]{44,128}", verifier) for verifier in made)


def test_pkce_pair_verifier_matches_its_challenge() -> None:
    pair = PKCEPair.generate()

    assert pair.code_challenge_method is CodeChallengeMethod.S256
    assert pair.code_challenge == code_challenge(pair.code_verifier)
    assert PKCEPair.generate() != pair


def test_pkce_pair_plain_on_request_has_the_verifier_as_challenge() -> None:
    pair = PKCEPair.generate("plain")

    assert pair.code_challenge_method is CodeChallengeMethod.PLAIN
    assert pair.code_challenge == pair.code_verifier


def test_pkce_pair_repr_shows_no_verifier() -> None:
    pair = PKCEPair.generate()

    assert pair.code_verifier not in repr(pair) + str(pair)


def test_pkce_pair_invalid_verifier_is_refused() -> None:
    with pytest.raises(RequestValidationError, match="code_verifier") as caught:
        PKCEPair(code_verifier="too-short")

    assert "too-short" not in str(caught.value)
