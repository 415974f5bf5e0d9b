"""Whatever is done with codes, and in whatever order: each is redeemed once at most, by its verifier, in its time."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter
from tests.fake.support import asking
from tests.kit.clocks import FROZEN
from tests.support import PATIENCE, STRESS

LIFETIME = 600.0
BEFORE, AFTER = "status-503", "status-500.after"


@attrs.define(eq=False)
class Issued:
    """The state of a code, as far as a client can observe it."""

    code: str
    pair: PKCEPair | None
    expires_at: float
    fault: str | None
    is_redeemed: bool = False


class Codes(RuleBasedStateMachine):
    codes = Bundle("codes")

    def __init__(self) -> None:
        super().__init__()
        self.cleanup = contextlib.ExitStack()
        self.fake = self.cleanup.enter_context(FakeOpenRouter(clock=FROZEN, code_lifetime=LIFETIME))
        port = urlsplit(self.fake.url).port
        self.connection = self.cleanup.enter_context(
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE))
        )
        self.now = 0.0
        self.all: list[Issued] = []
        self.keys: list[str] = []

    def teardown(self) -> None:
        self.cleanup.close()

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.fake.token}", "Content-Type": "application/json"}
        self.connection.request("POST", f"/api/v1{path}", json.dumps(body), headers)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def exchange(self, issued: Issued, *, is_right: bool, **fields: Any) -> None:
        """Exchange a code, and check that the answer follows the rules."""
        grants = is_right and not issued.is_redeemed and self.now < issued.expires_at
        fault, issued.fault = issued.fault, None
        status, body = self.post("/auth/keys", {"code": issued.code, **fields})
        if fault == BEFORE:
            assert status == 503
            return
        issued.is_redeemed |= grants
        if fault == AFTER:
            assert status == 500
        elif grants:
            assert status == 200
            self.keys.append(body["key"])
        else:
            assert status in (400, 403)

    def issued(self, code: str, pair: PKCEPair | None, fault: str | None = None) -> Issued:
        self.all.append(Issued(code, pair, self.now + LIFETIME, fault))
        return self.all[-1]

    @rule(target=codes, method=st.sampled_from([None, "S256", "plain"]))
    def create(self, method: str | None) -> Issued:
        pair = None if method is None else PKCEPair.generate(method)
        asked = {} if pair is None else {"code_challenge": pair.code_challenge, "code_challenge_method": method}
        status, body = self.post("/auth/keys/code", {"callback_url": "https://app.example/", **asked})
        assert status == 200
        return self.issued(body["data"]["id"], pair)

    @rule(target=codes, headless=st.booleans(), fault=st.sampled_from([None, BEFORE, AFTER]))
    def consent(self, headless: bool, fault: str | None) -> Issued:
        pair = PKCEPair.generate()
        callback_url = None if headless else "https://app.example/"
        brought = self.fake.consent(asking(self.fake, callback_url, code_challenge=pair.code_challenge), fault=fault)
        return self.issued(brought if headless else parse_qs(urlsplit(brought).query)["code"][0], pair, fault)

    @rule(seconds=st.sampled_from([1.0, 200.0, 599.0, 600.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.fake.advance(seconds)

    @rule(issued=codes, says_method=st.booleans())
    def redeem(self, issued: Issued, says_method: bool) -> None:
        fields = {} if issued.pair is None else {"code_verifier": issued.pair.code_verifier}
        if says_method and issued.pair is not None:
            fields["code_challenge_method"] = issued.pair.code_challenge_method
        self.exchange(issued, is_right=True, **fields)

    @rule(issued=codes, other=codes)
    def redeem_with_the_verifier_of(self, issued: Issued, other: Issued) -> None:
        fields = {} if other.pair is None else {"code_verifier": other.pair.code_verifier}
        self.exchange(issued, is_right=issued.pair is other.pair, **fields)

    @rule(issued=codes)
    def redeem_with_a_guess(self, issued: Issued) -> None:
        self.exchange(issued, is_right=False, code_verifier=PKCEPair.generate().code_verifier)

    @rule(issued=codes)
    def redeem_by_another_method(self, issued: Issued) -> None:
        other = "plain" if issued.pair is None or issued.pair.code_challenge_method == "S256" else "S256"
        fields = {} if issued.pair is None else {"code_verifier": issued.pair.code_verifier}
        self.exchange(issued, is_right=False, **fields, code_challenge_method=other)

    @rule(issued=codes)
    def redeem_a_part(self, issued: Issued) -> None:
        fields = {} if issued.pair is None else {"code_verifier": issued.pair.code_verifier}
        status, _ = self.post("/auth/keys", {"code": issued.code[1:], **fields})
        assert status == 403

    @invariant()
    def each_code_gave_one_key_or_none(self) -> None:
        redeemed = sum(issued.is_redeemed for issued in self.all)
        assert len({key.key for key in self.fake.issued_keys}) == len(self.fake.issued_keys) == redeemed
        assert len(set(self.fake.redeemed_codes)) == len(self.fake.redeemed_codes) == redeemed
        assert {key.key for key in self.fake.issued_keys}.issuperset(self.keys)


Codes.TestCase.settings = settings(deadline=None, max_examples=400 if STRESS else 12, stateful_step_count=25)
TestCodes = Codes.TestCase
