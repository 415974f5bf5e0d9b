"""What every store promises, shown of each of them alike."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from openrouter_async.login.stores import ClaimStatus, LoginStore
from tests.login.support import NOW, make_claim_request, make_login, make_result


async def test_a_login_is_given_back_as_it_was_put(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)

    claim = await store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)

    assert claim.status is ClaimStatus.CLAIMED
    assert claim.login == login
    assert not claim.lost


async def test_what_was_never_put_is_unknown(store: LoginStore) -> None:
    claim = await store.claim(make_claim_request(make_login()), now=NOW, claim_ttl=15)

    assert claim.status is ClaimStatus.UNKNOWN


async def test_of_many_callbacks_at_once_exactly_one_gets_the_login(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)

    claims = await asyncio.gather(
        *(store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15) for _ in range(50))
    )

    assert sorted(claim.status for claim in claims) == ["busy"] * 49 + ["claimed"]


async def test_another_browser_gets_nothing_and_changes_nothing(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    stranger = attrs.evolve(make_claim_request(login, cookie), binding="0" * 64)

    assert (await store.claim(stranger, now=NOW, claim_ttl=15)).status is ClaimStatus.BINDING_MISMATCH
    assert (await store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED
    assert (await store.claim(stranger, now=NOW, claim_ttl=15)).status is ClaimStatus.BINDING_MISMATCH


async def test_a_login_that_is_given_back_can_be_claimed_again(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    first, second = make_claim_request(login, cookie), make_claim_request(login, cookie)
    await store.claim(first, now=NOW, claim_ttl=15)

    await store.release(first, now=NOW)

    claim = await store.claim(second, now=NOW, claim_ttl=15)
    assert claim.status is ClaimStatus.CLAIMED
    assert claim.login == login
    assert not claim.lost


async def test_only_who_has_a_login_can_give_it_back_or_end_it_without_a_key(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    holder, other = make_claim_request(login, cookie), make_claim_request(login, cookie)
    await store.claim(holder, now=NOW, claim_ttl=15)

    await store.release(other, now=NOW)
    await store.finish(other, None, now=NOW, result_ttl=60)

    assert (await store.claim(other, now=NOW, claim_ttl=15)).status is ClaimStatus.BUSY
    assert (await store.claim(holder, now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED


async def test_a_spent_login_stays_spent(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    claim_request = make_claim_request(login, cookie)
    await store.claim(claim_request, now=NOW, claim_ttl=15)

    await store.finish(claim_request, None, now=NOW, result_ttl=60)
    await store.put(login, now=NOW)
    await store.release(claim_request, now=NOW)

    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CONSUMED


async def test_a_result_is_given_to_who_asks_again_and_to_no_other_browser(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    claim_request = make_claim_request(login, cookie)
    await store.claim(claim_request, now=NOW, claim_ttl=15)

    await store.finish(claim_request, make_result(), now=NOW, result_ttl=60)

    again = await store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)
    assert again.status is ClaimStatus.FINISHED
    assert again.result == make_result()
    stranger = attrs.evolve(make_claim_request(login, cookie), binding="0" * 64)
    assert (await store.claim(stranger, now=NOW, claim_ttl=15)).status is ClaimStatus.BINDING_MISMATCH


async def test_no_result_is_kept_for_no_time(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    claim_request = make_claim_request(login, cookie)
    await store.claim(claim_request, now=NOW, claim_ttl=15)

    await store.finish(claim_request, make_result(), now=NOW, result_ttl=0)

    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CONSUMED


async def test_doing_it_twice_is_doing_it_once(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    assert await store.put(login, now=NOW) is None or cookie is not None
    claim_request = make_claim_request(login, cookie)
    for _ in range(2):
        assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED
    for _ in range(2):
        await store.release(claim_request, now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    for _ in range(2):
        await store.finish(claim_request, make_result(), now=NOW, result_ttl=60)

    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).result == make_result()


async def test_when_a_lease_is_over_another_one_takes_the_login_and_knows_it(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    dead, heir = make_claim_request(login, cookie), make_claim_request(login, cookie)
    await store.claim(dead, now=NOW, claim_ttl=0.001)
    await asyncio.sleep(0.01)

    claim = await store.claim(heir, now=NOW + 1, claim_ttl=15)

    assert claim.status is ClaimStatus.CLAIMED
    assert claim.lost
    assert (await store.claim(dead, now=NOW + 1, claim_ttl=15)).status is ClaimStatus.BUSY
    await store.release(heir, now=NOW + 1)
    assert (await store.claim(dead, now=NOW + 1, claim_ttl=15)).lost


async def test_a_claim_that_is_renewed_is_not_taken(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    holder = make_claim_request(login, cookie)
    await store.claim(holder, now=NOW, claim_ttl=0.001)

    assert (await store.claim(holder, now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED
    await asyncio.sleep(0.01)

    assert (await store.claim(make_claim_request(login, cookie), now=NOW + 1, claim_ttl=15)).status is ClaimStatus.BUSY


async def test_the_key_of_one_who_was_overtaken_is_kept_all_the_same(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    slow, heir = make_claim_request(login, cookie), make_claim_request(login, cookie)
    await store.claim(slow, now=NOW, claim_ttl=0.001)
    await asyncio.sleep(0.01)
    await store.claim(heir, now=NOW + 1, claim_ttl=15)

    await store.finish(slow, make_result(), now=NOW + 1, result_ttl=60)
    await store.finish(heir, None, now=NOW + 1, result_ttl=60)

    assert (await store.claim(heir, now=NOW + 1, claim_ttl=15)).result == make_result()


async def test_a_login_is_remembered_a_while_beyond_its_end(store: LoginStore) -> None:
    login = make_login(lifetime=-30)
    cookie = await store.put(login, now=NOW)

    claim = await store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)

    assert claim.status is ClaimStatus.CLAIMED
    assert claim.login == login


async def test_logins_do_not_get_into_each_others_way(store: LoginStore) -> None:
    logins = [make_login() for _ in range(20)]
    cookies = [await store.put(login, now=NOW) for login in logins]
    claim_requests = [make_claim_request(login, cookie) for login, cookie in zip(logins, cookies, strict=True)]

    claims = await asyncio.gather(
        *(store.claim(claim_request, now=NOW, claim_ttl=15) for claim_request in claim_requests)
    )

    assert [claim.login for claim in claims] == logins


@pytest.mark.parametrize("store", ["memory", "cookie", "valkey"], indirect=True)
async def test_neither_stores_nor_what_they_hold_show_secrets(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    claim_request = make_claim_request(login, cookie)
    claim = await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.finish(claim_request, make_result(), now=NOW, result_ttl=60)
    finished = await store.claim(claim_request, now=NOW, claim_ttl=15)

    shown = repr((store, login, cookie, claim_request, claim, finished, make_result()))

    assert login.pkce.code_verifier not in shown
    assert login.binding not in shown
    assert make_result().key not in shown
    assert cookie is None or cookie.value not in shown
