from __future__ import annotations

import gc
import time
import tracemalloc

import attrs
import pytest

from openrouter_async.errors import RequestValidationError
from openrouter_async.login import MemoryStore, MemoryStoreStats
from openrouter_async.login.stores import ClaimStatus
from tests.login.support import NOW, RESULT, make_claim_request, make_login
from tests.support import STRESS


@pytest.mark.stress
async def test_memory_store_of_very_many_logins_stays_within_its_bound() -> None:
    most = 100_000 if STRESS else 3_000
    store = MemoryStore(max_logins=most)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(most):
            await store.put(make_login(), now=NOW)
        full, _ = tracemalloc.get_traced_memory()
        for _ in range(most // 2):
            await store.put(make_login(), now=NOW)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    print(f"{most:,} pending logins: {full / 2**20:.1f} MiB; after {most // 2:,} more: {after / 2**20:.1f} MiB")
    assert len(store) == most
    assert full < most * 1.5 * 2**10
    # Dictionaries grow by steps.
    assert after < full * 1.15


async def time_logins(store: MemoryStore) -> float:
    """Seconds of this thread's work for the whole life of one login."""
    logins = [make_login() for _ in range(50)]
    claim_requests = [make_claim_request(login) for login in logins]
    started = time.thread_time()
    for login, claim_request in zip(logins, claim_requests, strict=True):
        await store.put(login, now=NOW)
        await store.claim(claim_request, now=NOW, claim_ttl=15)
        await store.release(claim_request, now=NOW)
        await store.claim(claim_request, now=NOW, claim_ttl=15)
        await store.finish(claim_request, None, now=NOW, result_ttl=60)
    return (time.thread_time() - started) / len(logins)


@pytest.mark.stress
async def test_memory_store_when_full_is_as_fast_as_empty() -> None:
    most = 100_000 if STRESS else 20_000
    empty, full = MemoryStore(max_logins=most), MemoryStore(max_logins=most)
    template = make_login()
    for number in range(most):
        template = attrs.evolve(template, id=f"{number}")
        await full.put(template, now=NOW)

    # By turns, and the fastest of many: others use the computer as well.
    rounds = [(await time_logins(empty), await time_logins(full)) for _ in range(20)]
    alone, crowded = map(min, zip(*rounds, strict=True))

    print(f"a login's five calls: {alone * 1e6:.1f} µs in an empty store, {crowded * 1e6:.1f} µs among {most:,}")
    assert len(full) == most
    # To look at each login would take hundreds of times as long.
    assert crowded < alone * 5 + 50e-6


async def test_memory_store_when_full_drops_the_oldest() -> None:
    store = MemoryStore(max_logins=2)
    first, second, third = (make_login() for _ in range(3))
    for login in (first, second, third):
        await store.put(login, now=NOW)

    assert (await store.claim(make_claim_request(first), now=NOW, claim_ttl=15)).status is ClaimStatus.UNKNOWN
    assert (await store.claim(make_claim_request(second), now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED
    assert (await store.claim(make_claim_request(third), now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED


async def test_memory_store_dropped_login_can_still_be_finished() -> None:
    store = MemoryStore(max_logins=1)
    login = make_login()
    claim_request = make_claim_request(login)
    await store.put(login, now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.put(make_login(), now=NOW)

    await store.release(claim_request, now=NOW)
    await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)

    assert len(store) == 1
    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).value == RESULT


async def test_memory_store_results_are_bounded() -> None:
    store = MemoryStore(max_logins=2)
    claim_requests = [make_claim_request(make_login()) for _ in range(3)]
    for claim_request in claim_requests:
        await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)

    statuses = [(await store.claim(claim_request, now=NOW, claim_ttl=15)).status for claim_request in claim_requests]
    assert statuses == [ClaimStatus.UNKNOWN, ClaimStatus.FINISHED, ClaimStatus.FINISHED]


async def test_memory_store_entries_expire() -> None:
    store = MemoryStore()
    login = make_login()
    claim_request = make_claim_request(login)
    await store.put(login, now=NOW)
    await store.put(make_login(), now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.finish(claim_request, RESULT, now=NOW, result_ttl=60)

    assert (await store.claim(claim_request, now=NOW + 59, claim_ttl=15)).status is ClaimStatus.FINISHED
    assert (await store.claim(claim_request, now=NOW + 60, claim_ttl=15)).status is ClaimStatus.CONSUMED
    assert (await store.claim(claim_request, now=NOW + 659, claim_ttl=15)).status is ClaimStatus.CONSUMED
    assert (await store.claim(claim_request, now=NOW + 660, claim_ttl=15)).status is ClaimStatus.UNKNOWN
    assert len(store) == 0


async def test_memory_store_result_behind_a_longer_one_expires_on_time() -> None:
    store = MemoryStore()
    first, second = make_claim_request(make_login()), make_claim_request(make_login())
    await store.finish(first, RESULT, now=NOW, result_ttl=600)
    await store.finish(second, RESULT, now=NOW, result_ttl=60)

    assert (await store.claim(second, now=NOW + 60, claim_ttl=15)).status is ClaimStatus.CONSUMED
    assert (await store.claim(first, now=NOW + 60, claim_ttl=15)).status is ClaimStatus.FINISHED


async def test_memory_store_login_behind_a_longer_one_expires_on_time() -> None:
    store = MemoryStore()
    await store.put(make_login(lifetime=6000), now=NOW)
    login = make_login(lifetime=600)
    await store.put(login, now=NOW)

    assert (await store.claim(make_claim_request(login), now=NOW + 660, claim_ttl=15)).status is ClaimStatus.UNKNOWN
    assert len(store) == 1


async def test_memory_store_claimed_login_outlives_its_expiry() -> None:
    store = MemoryStore()
    login = make_login()
    claim_request = make_claim_request(login)
    await store.put(login, now=NOW)
    await store.claim(claim_request, now=NOW + 655, claim_ttl=15)

    assert (await store.claim(make_claim_request(login), now=NOW + 665, claim_ttl=15)).status is ClaimStatus.BUSY


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "2", None])
def test_memory_store_invalid_bound_is_refused(most: int) -> None:
    with pytest.raises(RequestValidationError, match="max_logins"):
        MemoryStore(max_logins=most)


async def test_memory_store_repr_shows_its_bound_and_size() -> None:
    with pytest.raises(RequestValidationError) as caught:
        MemoryStore(max_logins=0)
    assert str(caught.value) == "max_logins: must be an integer of at least 1"
    store = MemoryStore()
    await store.put(make_login(), now=NOW)
    assert repr(store) == "<MemoryStore 1/10000>"


async def test_memory_store_lease_ends_at_its_end() -> None:
    store, login = MemoryStore(), make_login()
    await store.put(login, now=NOW)
    await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)
    assert (await store.claim(make_claim_request(login), now=NOW + 14.9, claim_ttl=15)).status is ClaimStatus.BUSY
    assert (await store.claim(make_claim_request(login), now=NOW + 15, claim_ttl=15)).status is ClaimStatus.CLAIMED


async def test_memory_store_remembers_a_login_through_its_lease_and_result() -> None:
    store, login = MemoryStore(), make_login()
    claim_request = make_claim_request(login)
    await store.put(login, now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=10_000)
    assert (await store.claim(claim_request, now=NOW + 10_000, claim_ttl=1)).status is ClaimStatus.CLAIMED
    await store.finish(claim_request, RESULT, now=NOW + 10_000, result_ttl=100_000)
    assert (await store.claim(claim_request, now=NOW + 109_999, claim_ttl=1)).status is ClaimStatus.FINISHED


async def test_memory_store_result_ttl_below_a_second_is_kept() -> None:
    store, login = MemoryStore(), make_login()
    claim_request = make_claim_request(login)
    await store.put(login, now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.finish(claim_request, RESULT, now=NOW, result_ttl=0.5)
    assert (await store.claim(claim_request, now=NOW + 0.4, claim_ttl=15)).status is ClaimStatus.FINISHED
    assert (await store.claim(claim_request, now=NOW + 0.5, claim_ttl=15)).status is ClaimStatus.CONSUMED


async def test_memory_store_oldest_login_expires_first() -> None:
    store = MemoryStore()
    short, long = make_login(lifetime=10), make_login(lifetime=100)
    await store.put(short, now=NOW)
    await store.put(long, now=NOW)
    assert (await store.claim(make_claim_request(long), now=NOW + 80, claim_ttl=15)).status is ClaimStatus.CLAIMED
    assert len(store) == 1


async def test_memory_store_flood_of_one_source_evicts_only_its_own() -> None:
    store = MemoryStore(max_logins=100, max_logins_per_source=3)
    victim = make_login()
    await store.put(victim, now=NOW)
    flood = [attrs.evolve(make_login(), source="203.0.113.7") for _ in range(200)]
    for login in flood:
        await store.put(login, now=NOW)

    assert store.stats() == MemoryStoreStats(pending=4, consumed=0, evicted=197)
    for login in (victim, *flood[-3:]):
        assert (await store.claim(make_claim_request(login), now=NOW, claim_ttl=15)).status is ClaimStatus.CLAIMED


async def test_memory_store_flood_does_not_evict_consumed_logins() -> None:
    store = MemoryStore(max_logins=10)
    used = make_login()
    claim_request = make_claim_request(used)
    await store.put(used, now=NOW)
    await store.claim(claim_request, now=NOW, claim_ttl=15)
    await store.finish(claim_request, None, now=NOW, result_ttl=0)
    for _ in range(50):
        await store.put(make_login(), now=NOW)

    assert (await store.claim(claim_request, now=NOW, claim_ttl=15)).status is ClaimStatus.CONSUMED
    assert store.stats() == MemoryStoreStats(pending=9, consumed=1, evicted=41)


async def test_memory_store_values_are_bounded_in_number_and_time() -> None:
    store = MemoryStore(max_logins=3)
    await store.set("short", b"", now=NOW, until=NOW + 1)
    assert await store.get("short", now=NOW + 1) is None
    for number in range(5):
        await store.set(str(number), b"v", now=NOW + 1, until=NOW + 60)
    assert [await store.get(str(number), now=NOW + 2) for number in range(5)] == [None, None, b"v", b"v", b"v"]
    assert store.stats() == MemoryStoreStats(pending=0, consumed=0, evicted=2)
