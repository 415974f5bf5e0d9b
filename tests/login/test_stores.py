"""Tests of the contract of `LoginStore`, run against every store."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from openrouter_async.login.stores import ClaimStatus, LeaseStore, LoginStore
from tests.login.support import KEY, NOW, RESULT, make_claim_request, make_login, verifier_of


async def test_store_claim_returns_the_login_that_was_put(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)

    claim = await store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)

    assert claim.status is ClaimStatus.CLAIMED
    assert claim.value == login.value
    assert not claim.lost


async def test_store_claim_of_an_unknown_login_is_unknown(store: LoginStore) -> None:
    claim = await store.claim(make_claim_request(make_login()), now=NOW, claim_ttl=15)

    assert claim.status is ClaimStatus.UNKNOWN


async def test_store_concurrent_claims_give_the_login_to_one(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)

    claims = await asyncio.gather(
        *(store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15) for _ in range(50))
    )

    assert sorted(claim.status for claim in claims) == ["busy"] * 49 + ["claimed"]


async def test_store_claim_with_another_binding_changes_nothing(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    stranger = attrs.evolve(make_claim_request(login, cookie), binding="0" * 64)

    assert (await store.claim(stranger, now=NOW, claim_ttl=15)).status is ClaimStatus.BINDING_MISMATCH
    assert (await store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED
    assert (await store.claim(stranger, now=NOW, claim_ttl=15)).status is ClaimStatus.BINDING_MISMATCH


async def test_store_released_login_can_be_claimed_again(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    first, second = make_claim_request(login, cookie), make_claim_request(login, cookie)
    await store.claim(first, now=NOW, claim_ttl=15)

    await store.release(first, now=NOW)

    claim = await store.claim(second, now=NOW, claim_ttl=15)
    assert claim.status is ClaimStatus.CLAIMED
    assert claim.value == login.value
    assert not claim.lost


async def test_store_release_and_consume_need_the_claim(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    holder, other = make_claim_request(login, cookie), make_claim_request(login, cookie)
    await store.claim(holder, now=NOW, claim_ttl=15)

    await store.release(other, now=NOW)
    await store.finish(other, None, now=NOW, result_ttl=60)

    assert (await store.claim(other, now=NOW, claim_ttl=15)).status is ClaimStatus.BUSY
    assert (await store.claim(holder, now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED


async def test_store_consumed_login_stays_consumed(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    claim_request = make_claim_request(login, cookie)
    await store.claim(claim_request, now=NOW, claim_ttl=15)

    await store.finish(claim_request, None, now=NOW, result_ttl=60)
    await store.put(login, now=NOW)
    await store.release(claim_request, now=NOW)

    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CONSUMED


async def test_store_result_is_given_again_to_the_same_binding_only(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    claim_request = make_claim_request(login, cookie)
    await store.claim(claim_request, now=NOW, claim_ttl=15)

    await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)

    again = await store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)
    assert again.status is ClaimStatus.FINISHED
    assert again.value == RESULT
    stranger = attrs.evolve(make_claim_request(login, cookie), binding="0" * 64)
    assert (await store.claim(stranger, now=NOW, claim_ttl=15)).status is ClaimStatus.BINDING_MISMATCH


async def test_store_finish_with_zero_result_ttl_keeps_no_result(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    claim_request = make_claim_request(login, cookie)
    await store.claim(claim_request, now=NOW, claim_ttl=15)

    await store.finish(claim_request, RESULT, now=NOW, result_ttl=0)

    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CONSUMED


async def test_store_operations_are_idempotent(store: LoginStore) -> None:
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
        await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)

    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).value == RESULT


async def test_store_expired_lease_is_claimed_as_taken_over(store: LoginStore) -> None:
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


async def test_store_renewed_claim_is_not_taken(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    holder = make_claim_request(login, cookie)
    await store.claim(holder, now=NOW, claim_ttl=0.001)

    assert (await store.claim(holder, now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED
    await asyncio.sleep(0.01)

    assert (await store.claim(make_claim_request(login, cookie), now=NOW + 1, claim_ttl=15)).status is ClaimStatus.BUSY


async def test_store_finish_by_an_overtaken_worker_keeps_its_result(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    slow, heir = make_claim_request(login, cookie), make_claim_request(login, cookie)
    await store.claim(slow, now=NOW, claim_ttl=0.001)
    await asyncio.sleep(0.01)
    await store.claim(heir, now=NOW + 1, claim_ttl=15)

    await store.finish(slow, RESULT, now=NOW + 1, result_ttl=60)
    await store.finish(heir, None, now=NOW + 1, result_ttl=60)

    assert (await store.claim(heir, now=NOW + 1, claim_ttl=15)).value == RESULT


async def test_store_remembers_a_login_beyond_its_expiry(store: LoginStore) -> None:
    login = make_login(lifetime=-30)
    cookie = await store.put(login, now=NOW)

    claim = await store.claim(make_claim_request(login, cookie), now=NOW, claim_ttl=15)

    assert claim.status is ClaimStatus.CLAIMED
    assert claim.value == login.value


async def test_store_logins_do_not_interfere(store: LoginStore) -> None:
    logins = [make_login() for _ in range(20)]
    cookies = [await store.put(login, now=NOW) for login in logins]
    claim_requests = [make_claim_request(login, cookie) for login, cookie in zip(logins, cookies, strict=True)]

    claims = await asyncio.gather(
        *(store.claim(claim_request, now=NOW, claim_ttl=15) for claim_request in claim_requests)
    )

    assert [claim.value for claim in claims] == [login.value for login in logins]


@pytest.mark.parametrize("store", ["memory", "cookie", "valkey"], indirect=True)
async def test_store_and_record_reprs_show_no_secrets(store: LoginStore) -> None:
    login = make_login()
    cookie = await store.put(login, now=NOW)
    claim_request = make_claim_request(login, cookie)
    claim = await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)
    finished = await store.claim(claim_request, now=NOW, claim_ttl=15)

    shown = repr((store, login, cookie, claim_request, claim, finished))

    assert verifier_of(login) not in shown
    assert login.binding not in shown
    assert KEY not in shown
    assert cookie is None or cookie.value not in shown


@pytest.mark.parametrize("store", ["memory", "valkey", "redis", "valkey, decoded"], indirect=True)
async def test_lease_store_returns_the_latest_value(store: LeaseStore) -> None:
    for value in (b"one", b"two"):
        await store.set("name", value, now=NOW, until=NOW + 60)
        assert await store.get("name", now=NOW) == value
    assert await store.get("another", now=NOW) is None
    for _ in range(2):
        await store.delete("name")
        assert await store.get("name", now=NOW) is None


@pytest.mark.parametrize("store", ["memory", "valkey"], indirect=True)
async def test_lease_store_item_and_value_of_one_name_are_apart(store: LeaseStore) -> None:
    login = make_login()
    await store.put(login, now=NOW)
    await store.set(login.id, b"value", now=NOW, until=NOW + 60)

    assert (await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)).value == login.value
    assert await store.get(login.id, now=NOW) == b"value"
