from __future__ import annotations

import asyncio
import json
import threading
import traceback
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keyring
import keyring.errors
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null

from openrouter_async import OpenRouter
from openrouter_async import sinks as package
from openrouter_async._values.clock import Clock
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, RequestValidationError
from openrouter_async.sinks import CallbackSink, FileSink, KeyringSink, KeySink, KeySinkError, KeyVault, StoredKey
from tests.kit.servers import ScriptedServer
from tests.login.support import GRANTED, KEY, NOW, ONCE
from tests.support import import_error_without

CLOCK = Clock(time=lambda: NOW + 0.7)
OPERATIONS = ("get", "set", "delete")
STORED = StoredKey(key=KEY, user_id="user_1", created_at=datetime.fromtimestamp(NOW, UTC))


class Ring(KeyringBackend):
    """A keyring in memory that remembers in which threads it was used."""

    priority = 1

    def __init__(self, failure: BaseException | None = None, *, failing: Container[str] = OPERATIONS) -> None:
        self.entries: dict[tuple[str, str], str] = {}
        self.threads: set[int] = set()
        self.failure = failure
        self.failing = failing

    def _use(self, operation: str) -> None:
        self.threads.add(threading.get_ident())
        if self.failure is not None and operation in self.failing:
            raise self.failure

    def get_password(self, service: str, username: str) -> str | None:
        self._use("get")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._use("set")
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._use("delete")
        del self.entries[service, username]


class HangingRing(Ring):
    """Never answers an operation, from a call of it on."""

    def __init__(self, operation: str, *, calls_before: int = 0) -> None:
        super().__init__()
        self.operation = operation
        self.calls_before = calls_before

    def _use(self, operation: str) -> None:
        if operation == self.operation:
            if self.calls_before == 0:
                threading.Event().wait()
            self.calls_before -= 1


class PanicError(BaseException):
    """As keyrings raise that are written in Rust."""


@pytest.fixture
def system_keyring() -> Iterator[Ring]:
    before = keyring.get_keyring()
    ring = Ring()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


@pytest.fixture(params=["file", "keyring"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> KeyVault:
    if request.param == "file":
        return FileSink(tmp_path / "key", clock=CLOCK)
    return KeyringSink("my app", backend=Ring(), clock=CLOCK)


async def sign_in(sink: KeySink) -> None:
    async with (
        ScriptedServer(GRANTED) as server,
        OpenRouter(None, base_url=server.base_url, retry=ONCE, on_key=sink) as client,
    ):
        await client.oauth.exchange_auth_code_for_api_key(code="the-code")


async def test_sink_has_the_key_of_an_exchange_until_it_is_deleted(vault: KeyVault) -> None:
    assert await vault.load() is None

    await sign_in(vault)
    assert await vault.load() == STORED

    await vault.save("sk-or-v1-another")
    assert await vault.load() == StoredKey(key="sk-or-v1-another", created_at=STORED.created_at)

    assert await vault.delete()
    assert await vault.load() is None
    assert not await vault.delete()


async def test_sink_key_of_any_characters_comes_back_unchanged(vault: KeyVault) -> None:
    for key in ("ä\n\0'\"", "\ud800", "🔑" * 100):
        await vault.save(key, user_id=key)
        stored = await vault.load()
        assert stored is not None
        assert (stored.key, stored.user_id) == (key, key)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", "null", KEY, "[" * 100_000, "{}"),
        *('{"key": ""}', '{"key": "k", "user_id": null}', '{"key": 7, "user_id": null, "created_at": "2027-01-01"}'),
        '{"key": "k", "user_id": null, "created_at": "2027-01-15T08:00:00"}',
        '{"key": "k", "user_id": 7, "created_at": "2027-01-15T08:00:00Z"}',
        '{"key": "", "user_id": null, "created_at": "2027-01-15T08:00:00Z"}',
        '{"key": "k", "user_id": null, "created_at": "0001-01-01T00:00:00+23:59"}',
    ],
)
def test_stored_key_of_foreign_text_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(KeySinkError, match="not a key that was stored") as caught:
        StoredKey.from_json(text)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_stored_key_is_json_and_ignores_unknown_fields() -> None:
    fields = json.loads(STORED.to_json())
    assert fields == {"key": KEY, "user_id": "user_1", "created_at": "2027-01-15T08:00:00Z"}
    assert StoredKey.from_json(json.dumps(fields | {"later": 1})) == STORED


def test_stored_key_repr_shows_no_key() -> None:
    assert KEY not in repr(STORED)


@pytest.mark.parametrize(
    ("arguments", "field"), [({"key": ""}, "key"), ({"key": 7}, "key"), ({"key": "k", "user_id": 7}, "user_id")]
)
async def test_stored_key_invalid_key_is_refused(arguments: dict[str, Any], field: str) -> None:
    taken: list[StoredKey] = []
    with pytest.raises(RequestValidationError) as caught:
        await CallbackSink(taken.append).save(**arguments)
    assert caught.value.field == field
    assert taken == []


async def test_callback_sink_blocking_callback_runs_in_a_thread() -> None:
    taken: list[tuple[StoredKey, int]] = []
    await sign_in(CallbackSink(lambda stored: taken.append((stored, threading.get_ident())), clock=CLOCK))
    [(stored, thread)] = taken
    assert stored == STORED
    assert thread != threading.get_ident()


class Awaited:
    def __init__(self) -> None:
        self.taken: list[tuple[StoredKey, int]] = []

    async def __call__(self, stored: StoredKey) -> None:
        await asyncio.sleep(0)
        self.taken.append((stored, threading.get_ident()))


async def test_callback_sink_async_callback_is_awaited_in_the_loop() -> None:
    for wrap in (lambda it: it, lambda it: it.__call__, lambda it: lambda stored: it(stored)):
        callback = Awaited()
        await CallbackSink(wrap(callback), clock=CLOCK).save(KEY, user_id="user_1")
        assert callback.taken == [(STORED, threading.get_ident())]


async def test_callback_sink_that_raises_loses_no_key() -> None:
    def refuse(stored: StoredKey) -> None:
        raise LookupError("no room")

    with pytest.raises(KeyDeliveryError) as caught:
        await sign_in(CallbackSink(refuse))
    assert caught.value.response.key == KEY
    assert isinstance(caught.value.__cause__, KeySinkError)
    assert isinstance(caught.value.__cause__.__cause__, LookupError)


def test_callback_sink_refuses_what_is_not_callable() -> None:
    with pytest.raises(RequestValidationError, match=r"^callback: must be callable$"):
        CallbackSink(7)  # type: ignore[arg-type]


async def test_key_sink_error_says_that_signing_in_again_is_no_help() -> None:
    error = KeySinkError("x")
    assert isinstance(error, OpenRouterError)
    assert not error.restart_login
    assert "operator" in error.user_message


async def test_keyring_sink_uses_the_system_keyring_in_threads_only(system_keyring: Ring) -> None:
    await KeyringSink(clock=CLOCK).save(KEY)
    assert list(system_keyring.entries) == [("openrouter-async", "default")]
    assert threading.get_ident() not in system_keyring.threads


async def test_keyring_sink_keeps_users_apart() -> None:
    ring = Ring()
    ada, ben = (KeyringSink("app", username=name, backend=ring) for name in ("ada", "ben"))
    await ada.save("sk-or-v1-ada")
    assert await ben.load() is None
    assert not await ben.delete()
    assert await ada.delete()


async def test_keyring_sink_without_a_keyring_says_so() -> None:
    sink = KeyringSink(backend=fail.Keyring())  # type: ignore[no-untyped-call]
    for call in (sink.save(KEY), sink.load(), sink.delete()):
        with pytest.raises(KeySinkError, match="no keyring that can be used; store the key in a file") as caught:
            await call
        assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_keyring_sink_disabled_keyring_is_refused() -> None:
    with pytest.raises(KeySinkError, match="does not return it"):
        await KeyringSink(backend=null.Keyring()).save(KEY)  # type: ignore[no-untyped-call]


FAILURES = [
    *(keyring.errors.KeyringLocked(KEY), OSError(KEY), RuntimeError(KEY), StopIteration(KEY), RecursionError(KEY)),
    *(PanicError(KEY), SystemExit(KEY), KeyboardInterrupt(KEY), GeneratorExit(KEY), asyncio.CancelledError(KEY)),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_keyring_sink_any_exception_is_a_key_sink_error_without_values(
    failure: BaseException, operation: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ring = Ring(failure, failing=(operation,))
    sink = KeyringSink(backend=ring, timeout=None)
    ring.entries["openrouter-async", "default"] = STORED.to_json()
    call = sink.delete() if operation == "delete" else sink.save(KEY)
    with pytest.raises(KeySinkError, match=type(failure).__name__) as caught:
        await call
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("calls_before", [0, 1])
async def test_keyring_sink_operation_that_never_answers_is_bounded(operation: str, calls_before: int) -> None:
    sink = KeyringSink(backend=HangingRing(operation, calls_before=calls_before), timeout=0.05)

    async def save_and_delete_twice() -> None:
        for _ in range(2):
            await sink.save(KEY)
            await sink.delete()

    with pytest.raises(KeySinkError, match=r"did not answer within 0\.05 seconds"):
        await save_and_delete_twice()


@pytest.mark.parametrize("names", [{"service": ""}, {"service": 7}, {"username": ""}, {"username": None}])
def test_keyring_sink_without_names_is_refused(names: dict[str, Any]) -> None:
    with pytest.raises(RequestValidationError) as caught:
        KeyringSink(**names)
    assert [caught.value.field] == list(names)


def test_keyring_sink_repr_names_its_entry() -> None:
    assert repr(KeyringSink("app", username="ada")) == "<KeyringSink app ada>"


def test_keyring_sink_without_its_extra_names_the_extra() -> None:
    message = import_error_without("keyring", "from openrouter_async import sinks", "sinks.KeyringSink()")
    assert message.endswith("pip install 'openrouter-async[keyring]'")


def test_sinks_exports_exist() -> None:
    assert all(hasattr(package, name) for name in package.__all__)
