from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import keyring
import pytest

from openrouter_async.cli import _storage as storage
from openrouter_async.cli._env_file import EnvSink
from openrouter_async.pkce import PKCEPair
from openrouter_async.sinks import KeySinkError
from openrouter_async.sinks._private_file import PrivateFile
from openrouter_async.testing import Fault
from tests.cli.conftest import Here
from tests.cli.support import KEYRING, PROGRAM, Shell, wait_until
from tests.kit.servers import RawServer, ScriptedServer, json_answer
from tests.login.support import GRANTED, KEY
from tests.support import PATIENCE

if TYPE_CHECKING:
    from openrouter_async.testing import FakeOpenRouter


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def key_of(fake: FakeOpenRouter) -> str:
    """The key that was issued; there has to be one."""
    (issued,) = fake.issued_keys
    return issued.key


def key_file(shell_data: Path, fake: FakeOpenRouter) -> Path:
    return shell_data / f"key-{fake.url.removeprefix('http://').replace(':', '-')}.json"


def at(fake: FakeOpenRouter) -> tuple[str, str]:
    return "--base-url", fake.base_url


@pytest.mark.shows_secrets
async def test_create_code_then_exchange_stores_the_key(shell: Shell, fake: FakeOpenRouter) -> None:
    (shell.home / "app-key").write_text(fake.token)
    created = await shell.run(
        *("create-code", "https://app.example/callback", *at(fake), "--api-key-file", "app-key"),
        *("--new-verifier", "verifier", "--limit", "2.5", "--usage-limit-type", "daily", "--key-label", "Mine"),
        *("--expires-at", "2027-12-31T23:59:59Z", "--workspace-id", "550e8400-e29b-41d4-a716-446655440000"),
    )
    assert created.status == 0, created.err
    assert created.out.count("\n") == 1
    assert "for app " in created.err
    assert mode(shell.home / "verifier") == 0o600

    verifier = (shell.home / "verifier").read_text().strip()
    exchanged = await shell.run(
        "exchange", "--code-file", "-", "--code-verifier", "-", *at(fake), stdin=f"{created.out}{verifier}\n"
    )
    assert exchanged.status == 0, exchanged.err
    assert "Signed in as user_" in exchanged.out
    assert key_of(fake)[-4:] in exchanged.out

    (issued,) = fake.issued_keys
    assert (issued.label, issued.limit) == ("Mine", 2.5)
    for secret in (issued.key, issued.code, verifier, fake.token):
        assert secret not in exchanged.out + exchanged.err + created.err
    kept = key_file(shell.data, fake)
    assert mode(kept) == 0o600
    assert json.loads(kept.read_text())["key"] == issued.key


async def test_exchange_json_describes_the_key_without_showing_it(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    ended = await here("exchange", fake.issue_code(), "--json", *at(fake))
    key = key_of(fake)
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert ended.document == {
        "key": f"sk-or-v1-…{key[-4:]}",
        "key_hash": digest,
        "user_id": fake.issued_keys[0].user_id,
        "settings_url": f"https://openrouter.ai/keys/{digest}",
        "logs_url": f"https://openrouter.ai/logs?api_key_hash={digest}",
        "stored_in": "file",
        "stored_at": ended.document["stored_at"],
    }
    assert os.path.basename(ended.document["stored_at"]) in os.listdir(home / "data" / "openrouter-async")


@pytest.mark.shows_secrets
async def test_exchange_store_print_prints_the_key_and_stores_nothing(
    here: Here, home: Path, fake: FakeOpenRouter
) -> None:
    ended = await here("exchange", fake.issue_code(), "--store", "print", *at(fake))
    assert ended.out == key_of(fake) + "\n"
    assert "kept nowhere" in ended.err
    ended = await here("exchange", fake.issue_code(), "--store", "print", "--json", *at(fake))
    assert ended.document["key"] == fake.issued_keys[1].key
    assert ended.document["stored_in"] == "print"
    assert os.listdir(home) == []


async def test_exchange_without_user_id_succeeds(here: Here, fake: FakeOpenRouter) -> None:
    ended = await here("exchange", fake.issue_code(user_id=None), *at(fake))
    assert ended.out.startswith("Signed in. The key sk-or-v1-…")


async def test_exchange_options_are_sent_unchanged(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    pair = PKCEPair(code_verifier="-" + "v" * 42)
    (home / "verifier").write_text(pair.code_verifier + "\n")
    for arguments, method in (
        (("--code-verifier", pair.code_verifier, "--code-challenge-method", "S256"), "S256"),
        (("--code-verifier-file", "verifier"), "absent"),
        (("--code-verifier-file", "verifier", "--code-challenge-method", "null"), None),
    ):
        code = fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method="S256")
        await here("exchange", code, *arguments, *at(fake))
        body = fake.requests[-1].body
        assert body["code"] == code
        assert body["code_verifier"] == pair.code_verifier
        assert body.get("code_challenge_method", "absent") == method


@pytest.mark.shows_secrets
async def test_create_code_options_are_sent_unchanged(
    here: Here, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", fake.token)
    # One in 64 starts like an option.
    challenge = "-" + PKCEPair.generate().code_challenge[1:]
    ended = await here(
        *("create-code", "https://app.example/callback", "--json", "--expires-at", "null"),
        *("--code-challenge", challenge, "--code-challenge-method", "S256", *at(fake)),
    )
    assert ended.document["id"].startswith("auth_code_")
    assert ended.document["app_id"] > 0
    assert ended.document["created_at"].startswith("20")
    assert fake.requests[-1].body == {
        "callback_url": "https://app.example/callback",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "expires_at": None,
    }


REFUSALS = [
    (["exchange", "none"], 3, "Start again with `openrouter-async login`"),
    (["create-code", "https://app.example/callback", "--api-key-file", "wrong"], 3, "OPENROUTER_API_KEY"),
    (["create-code", "https://app.example/callback"], 2, "An API key is needed"),
    (["create-code", "http://app.example/callback"], 2, "--callback-url must be an https URL"),
    (["create-code", "https://app.example/", "--expires-at", "soon"], 2, "--expires-at must be a time such as"),
    (["create-code", "https://app.example/", "--expires-at", "2027-12-31"], 2, "with a time zone"),
    (["create-code", "https://app.example/", "--workspace-id", "7"], 2, "--workspace-id must be a UUID."),
    (["create-code", "https://app.example/", "--new-verifier", "v", "--code-challenge", "c"], 2, "leave --code-chall"),
    (["create-code", "https://app.example/", "--api-key-file", "missing"], 2, "missing: No such file or directory."),
    (["create-code", "https://app.example/", "--api-key-file", "empty"], 2, "There is no API key in what was given"),
    (["create-code", "https://app.example/", "--api-key-file", "binary"], 2, "it is not text"),
    (["exchange", "--code-file", "utf-16"], 2, "it is in UTF-16; save it as UTF-8"),
    (["exchange"], 2, "--code-file"),
    (["exchange", "code", "--code-file", "wrong"], 2, "not both"),
    (["exchange", "--code-file", "empty"], 2, "There is no code in what was given"),
    (["exchange", "code", "--code-verifier", "short"], 2, "--code-verifier must be 43 to 128 characters"),
    (["exchange", ""], 2, "There is no code"),
    (["logout", "--store", "print"], 2, "stored nowhere"),
]


@pytest.mark.parametrize(("arguments", "status", "advice"), REFUSALS)
async def test_failure_is_one_line_that_says_what_to_do(
    here: Here, home: Path, fake: FakeOpenRouter, arguments: list[str], status: int, advice: str
) -> None:
    (home / "wrong").write_text("sk-or-v1-wrong")
    (home / "empty").write_text("\n")
    (home / "binary").write_bytes(b"\xff")
    (home / "utf-16").write_text("code", encoding="utf-16")
    ended = await here(*arguments, *at(fake))
    assert ended.status == status
    assert advice in ended.complaint
    assert "sk-or-v1-wrong" not in ended.err
    assert list(fake.issued_keys) == []


@pytest.mark.parametrize(
    ("fault", "status", "advice"),
    [
        (Fault.status(500), 4, "a key that is not used may be listed at"),
        (Fault.drop(after=True), 4, "a key that is not used may be listed at"),
        (Fault.html(403), 3, "Correct what OpenRouter objects to."),
        (
            Fault.status(429, headers={"Retry-After": "3600"}),
            3,
            "Try again in 3600 seconds; what you sent is still good.",
        ),
        (Fault.status(302), 4, "Is --base-url right?"),
    ],
)
async def test_failure_has_an_exit_status_for_its_kind(
    here: Here, fake: FakeOpenRouter, fault: Fault, status: int, advice: str
) -> None:
    code = fake.issue_code()
    fake.queue_faults(fault.times(9))
    ended = await here("exchange", code, "--timeout", "1", *at(fake))
    assert ended.status == status
    assert advice in ended.complaint
    assert code not in ended.err


async def test_create_code_of_unknown_outcome_says_that_it_is_harmless(
    here: Here, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", fake.token)
    fake.queue_faults(Fault.status(302))
    ended = await here("create-code", "https://app.example/callback", *at(fake))
    assert ended.status == 4
    assert "creating another one does no harm" in ended.complaint


async def test_failure_with_json_is_an_object(here: Here, fake: FakeOpenRouter) -> None:
    ended = await here("exchange", "no-such-code", "--json", *at(fake))
    assert ended.status == 3
    failure = ended.failure
    assert failure["outcome"] == "refused"
    assert failure["exit_status"] == 3
    assert failure["status_code"] == 403
    assert failure["attempts"] == 1
    assert "no-such-code" not in ended.err


# Where keys are kept.


async def test_exchange_stores_in_the_keyring_first(with_keyring: Here, home: Path, fake: FakeOpenRouter) -> None:
    ended = await with_keyring("exchange", fake.issue_code(), *at(fake))
    assert "is in the keyring" in ended.out
    stored = keyring.get_password("openrouter-async", f"default-127.0.0.1-{fake.base_url.split(':')[2].split('/')[0]}")
    assert stored is not None
    assert json.loads(stored)["key"] == key_of(fake)
    assert os.listdir(home) == ["keyring.json"]


async def test_status_shows_every_key_and_its_location(
    with_keyring: Here, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store in ("keyring", "file"):
        await with_keyring("exchange", fake.issue_code(), "--store", store, *at(fake))
    monkeypatch.setenv("OPENROUTER_API_KEY", fake.token)
    document = (await with_keyring("status", "--json", *at(fake))).document
    keys = [fake.token, *(issued.key for issued in fake.issued_keys)]
    assert [one["key_hash"] for one in document["keys"]] == [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    assert [one["where"] for one in document["keys"]][:2] == ["OPENROUTER_API_KEY", "the keyring"]
    ended = await with_keyring("status", *at(fake))
    assert ended.status == 0
    for key in keys:
        assert key not in ended.out
        assert key[-4:] in ended.out
    assert "https://openrouter.ai/logs?api_key_hash=" in ended.out
    # Those of the sandbox are not those of the real one.
    monkeypatch.delenv("OPENROUTER_API_KEY")
    assert (await with_keyring("status")).status == 1


@pytest.mark.shows_secrets
async def test_token_prints_the_stored_key_alone(here: Here, fake: FakeOpenRouter) -> None:
    ended = await here("token", *at(fake))
    assert (ended.status, ended.out) == (1, "")
    await here("exchange", fake.issue_code(), *at(fake))
    ended = await here("token", *at(fake))
    assert (ended.status, ended.out, ended.err) == (0, key_of(fake) + "\n", "")


async def test_status_asks_the_server_unless_offline(here: Here, fake: FakeOpenRouter) -> None:
    await here("exchange", fake.issue_code(), *at(fake))
    sent = len(list(fake.requests))
    assert "State" not in (await here("status", "--offline", *at(fake))).out
    assert len(list(fake.requests)) == sent
    assert "State       valid" in (await here("status", *at(fake))).out


async def test_status_and_token_name_the_servers_of_stored_keys(here: Here, fake: FakeOpenRouter) -> None:
    await here("exchange", fake.issue_code(), *at(fake))
    server = fake.url.removeprefix("http://")
    hint = f"There is a key for {server}: give its address with --base-url.\n"
    assert (await here("status", "--offline")).out.endswith(hint)
    assert (await here("status", "--json")).document == {"keys": [], "other_servers": [server]}
    assert (await here("token")).err.endswith(hint)
    assert hint not in (await here("status", "--offline", *at(fake))).out


async def test_logout_removes_the_key_from_every_location(
    with_keyring: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store in ("keyring", "file"):
        await with_keyring("exchange", fake.issue_code(), "--store", store, *at(fake))
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-of-the-shell")
    ended = await with_keyring("logout", *at(fake))
    assert ended.out.count("The key was removed from ") == 2
    assert ended.out.count("https://openrouter.ai/keys/") == 2
    assert "OPENROUTER_API_KEY is still set in this shell." in ended.out
    monkeypatch.delenv("OPENROUTER_API_KEY")
    ended = await with_keyring("status", *at(fake))
    assert (ended.status, ended.out) == (1, "There is no key. Sign in with `openrouter-async login`.\n")
    assert (await with_keyring("logout", *at(fake))).out == "There was no key.\n"
    assert not key_file(home / "data" / "openrouter-async", fake).exists()


async def test_env_file_takes_the_key_and_keeps_other_lines(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    env = home / ".env"
    place = ("--store", "env", *at(fake))
    assert (await here("status", *place)).status == 1
    await here("exchange", fake.issue_code(), *place)
    assert env.read_text() == f"OPENROUTER_API_KEY={key_of(fake)}\n"
    env.write_text('# mine\nDEBUG=1\nexport OPENROUTER_API_KEY = "old"\nX=2\nOPENROUTER_API_KEY=older')
    env.chmod(0o644)
    await here("exchange", fake.issue_code(), *place)
    new = fake.issued_keys[1].key
    assert env.read_text() == f"# mine\nDEBUG=1\nexport OPENROUTER_API_KEY = {new}\nX=2\n"
    assert mode(env) == 0o600
    assert new[-4:] in (await here("status", *place)).out
    assert (await here("logout", *place)).out.startswith(f"The key was removed from {env}.")
    assert env.read_text() == "# mine\nDEBUG=1\nX=2\n"
    env.write_bytes(b"\xff")
    assert (await here("status", *place)).status == 1
    env.write_bytes(b"OPENROUTER_API_KEY=\xff")
    assert "is not a key" in (await here("status", *place)).err


async def test_key_file_readable_by_others_is_replaced_by_a_private_one(
    here: Here, home: Path, fake: FakeOpenRouter
) -> None:
    for name in ("key.json", "key.env"):
        path = home / name
        path.write_text("")
        path.chmod(0o666)
        inode = path.stat().st_ino
        store = "env" if name == "key.env" else "file"
        ended = await here("exchange", fake.issue_code(), "--store", store, "--file", path, *at(fake))
        assert ended.status == 0
        assert mode(path) == 0o600
        # It was moved there whole, and not written in place.
        assert path.stat().st_ino != inode
    assert sorted(os.listdir(home)) == ["key.env", "key.json"]


@pytest.mark.parametrize("store", ["file", "env"])
async def test_key_file_symbolic_link_is_refused_before_the_code_is_used(
    here: Here, home: Path, fake: FakeOpenRouter, store: str
) -> None:
    (home / "target").write_text("untouched")
    (home / "link").symlink_to("target")
    ended = await here("exchange", fake.issue_code(), "--store", store, "--file", "link", *at(fake))
    assert ended.status == 2
    assert "is a symbolic link. Choose another place by --store and --file." in ended.complaint
    assert list(fake.requests) == []
    assert (home / "target").read_text() == "untouched"


async def test_verifier_file_symbolic_link_is_not_written_through(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    (home / "key").write_text(fake.token)
    (home / "link").symlink_to("target")
    ended = await here(
        *("create-code", "https://app.example/", "--new-verifier", "link", "--api-key-file", "key", *at(fake))
    )
    assert ended.status == 1
    assert "is a symbolic link" in ended.complaint
    assert list(fake.requests) == []


async def test_exchange_without_a_keyring_does_not_claim_one(here: Here, fake: FakeOpenRouter) -> None:
    ended = await here("exchange", fake.issue_code(), "--store", "keyring", *at(fake))
    assert ended.status == 2
    assert "this computer has no keyring that can be used" in ended.complaint
    assert list(fake.requests) == []


async def test_exchange_rescues_a_key_that_its_location_refuses(
    with_keyring: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYRING_FAULT", "late")
    ended = await with_keyring("exchange", fake.issue_code(), "--store", "keyring", *at(fake))
    assert ended.status == 1
    assert "The key could not be kept where you wanted it: the keyring cannot be used" in ended.err
    folder = home / "data" / "openrouter-async"
    rescued = folder / os.listdir(folder)[0]
    assert rescued.name.startswith("rescued-")
    assert mode(rescued) == 0o600
    assert json.loads(rescued.read_text())["key"] == key_of(fake)
    assert key_of(fake) not in ended.out + ended.err


async def test_exchange_without_any_writable_place_names_the_key_to_delete(
    with_keyring: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYRING_FAULT", "late")
    monkeypatch.setattr(PrivateFile, "write", refuse_to_write)
    ended = await with_keyring("exchange", fake.issue_code(), "--store", "keyring", *at(fake))
    assert ended.status == 1
    assert f"delete it at https://openrouter.ai/keys/{hashlib.sha256(key_of(fake).encode()).hexdigest()}" in ended.err
    assert key_of(fake) not in ended.out + ended.err


def refuse_to_write(*_: object) -> None:
    raise KeySinkError("no space")


@pytest.mark.parametrize("fault", ["hang", "locked"])
async def test_exchange_with_a_failing_default_keyring_uses_the_key_file(
    with_keyring: Here, home: Path, fake: FakeOpenRouter, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYRING_FAULT", fault)
    monkeypatch.setattr(storage, "_DEFAULT_KEYRING_TIMEOUT", 0.05)
    monkeypatch.setattr(storage, "_ANNOUNCE_AFTER", 0.01)
    ended = await with_keyring("exchange", fake.issue_code(), *at(fake))
    assert ended.status == 0
    assert "The key will be stored in a file, because the keyring" in ended.err
    assert fault == "locked" or "Waiting for the keyring to answer" in ended.err
    assert json.loads(key_file(home / "data" / "openrouter-async", fake).read_text())["key"] == key_of(fake)
    assert key_of(fake)[-4:] in (await with_keyring("status", *at(fake))).out
    ended = await with_keyring("logout", *at(fake))
    # The keyring may hold another key, which could not be removed.
    assert (ended.status, ended.out.count("The key was removed from")) == (1, 1)


@pytest.mark.parametrize("fault", ["late", "late-hang"])
async def test_exchange_with_a_keyring_that_fails_later_uses_the_key_file(
    with_keyring: Here, home: Path, fake: FakeOpenRouter, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYRING_FAULT", fault)
    monkeypatch.setattr(storage, "_DEFAULT_KEYRING_TIMEOUT", 0.2)
    ended = await with_keyring("exchange", fake.issue_code(), *at(fake))
    assert ended.status == 0
    assert json.loads(key_file(home / "data" / "openrouter-async", fake).read_text())["key"] == key_of(fake)


async def test_exchange_with_a_locked_chosen_keyring_uses_no_code(
    with_keyring: Here, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYRING_FAULT", "locked")
    ended = await with_keyring("exchange", fake.issue_code(), "--store", "keyring", *at(fake))
    assert ended.status == 2
    assert "the keyring cannot be used: KeyringLocked" in ended.complaint
    assert list(fake.requests) == []


async def test_status_and_logout_find_a_rescued_key(
    with_keyring: Here, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYRING_FAULT", "late")
    await with_keyring("exchange", fake.issue_code(), "--store", "keyring", *at(fake))
    monkeypatch.delenv("KEYRING_FAULT")
    assert "rescued-" in (await with_keyring("status", *at(fake))).out
    # A key of one OpenRouter is not shown as one of another.
    assert (await with_keyring("status")).status == 1
    assert "rescued-" in (await with_keyring("logout", *at(fake))).out
    assert (await with_keyring("status", *at(fake))).status == 1


async def test_exchange_with_unwritable_data_folder_uses_no_code_and_names_it(
    here: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "in-the-way").write_text("")
    for name, value in (("XDG_DATA_HOME", home / "in-the-way"), ("XDG_DATA_HOME", "/proc/nowhere")):
        monkeypatch.setenv(name, str(value))
        ended = await here("exchange", fake.issue_code(), *at(fake))
        assert ended.status == 2
        assert str(value) in ended.complaint
    ended = await here("exchange", fake.issue_code(), "--store", "env", "--file", "/proc/x/.env", *at(fake))
    assert (ended.status, "/proc/x/.env" in ended.complaint) == (2, True)
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", str)
    ended = await here("exchange", fake.issue_code(), *at(fake))
    assert (ended.status, "no home folder" in ended.complaint) == (2, True)
    assert list(fake.requests) == []
    assert sorted(os.listdir(home)) == ["in-the-way"]


@pytest.mark.parametrize(
    "file",
    [".", "/", "", "folder", "pipe", "link/key", "file/key", "everybody/key", "foreign", "of-others/key", "k" * 300],
)
@pytest.mark.parametrize("store", ["file", "env"])
async def test_exchange_to_an_impossible_file_uses_no_code_and_names_it(
    here: Here, home: Path, fake: FakeOpenRouter, store: str, file: str
) -> None:
    for folder in ("folder", "everybody", "of-others"):
        (home / folder).mkdir()
    (home / "everybody").chmod(0o777)
    (home / "link").symlink_to("link")
    os.mkfifo(home / "pipe")
    for name in ("file", "foreign"):
        (home / name).write_text("A=1")
    if os.geteuid() == 0:
        for name in ("foreign", "of-others"):
            os.chown(home / name, 1234, 1234)
    elif file in ("foreign", "of-others/key"):
        file = "/etc/shadow"
    ended = await here("exchange", fake.issue_code(), "--store", store, "--file", file, *at(fake))
    assert ended.status == 2
    named = str(home / file).removesuffix("/key") if file.strip("./") else "--file must be the path of a file"
    assert named in ended.complaint
    assert list(fake.requests) == []


@pytest.mark.parametrize("arguments", [("--file", "key"), ("--store", "env")])
async def test_exchange_in_a_folder_that_was_deleted_uses_no_code(
    shell: Shell, fake: FakeOpenRouter, arguments: tuple[str, ...]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh"),
        *(*PROGRAM, "exchange", fake.issue_code(), *arguments, *at(fake)),
        env=dict(shell.environment),
        cwd=shell.home,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()
    assert (process.returncode, b"the current folder, which no longer exists" in err) == (2, True)
    assert list(fake.requests) == []


async def test_rescue_without_data_folder_uses_the_working_folder(
    with_keyring: Here, home: Path, fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYRING_FAULT", "late")
    (home / "data").write_text("in the way")
    ended = await with_keyring("exchange", fake.issue_code(), "--store", "keyring", *at(fake))
    assert ended.status == 1
    (name,) = (name for name in os.listdir(home) if name.startswith("openrouter-async-rescued-"))
    assert json.loads((home / name).read_text())["key"] == key_of(fake)
    assert str(home / name) in ended.out
    (home / name).unlink()
    home.chmod(0o777)
    ended = await with_keyring("exchange", fake.issue_code(), "--store", "keyring", *at(fake))
    rescued = Path(ended.out.partition(" is in ")[2].partition(".json")[0] + ".json")
    assert rescued.parent.parent == Path(tempfile.gettempdir())
    assert (mode(rescued), mode(rescued.parent)) == (0o600, 0o700)
    assert json.loads(rescued.read_text())["key"] == fake.issued_keys[1].key
    shutil.rmtree(rescued.parent)


async def test_exchange_interrupted_while_the_keyring_hangs_keeps_the_key_in_a_file(shell: Shell) -> None:
    environment = {**shell.environment, **KEYRING, "KEYRING_FAULT": "late-hang"}
    impatient = attrs.evolve(shell, environment=environment)
    processes: list[asyncio.subprocess.Process] = []

    def interrupt(_: bytes) -> bytes:
        processes[0].send_signal(signal.SIGINT)
        return GRANTED

    async with RawServer(interrupt) as server, asyncio.timeout(PATIENCE):
        processes.append(await impatient.start("exchange", "a-code", "--base-url", server.base_url))
        await processes[0].communicate()
    (kept,) = os.listdir(shell.data)
    assert json.loads((shell.data / kept).read_text())["key"] == KEY


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.2])
async def test_exchange_with_three_interrupts_while_the_keyring_hangs_keeps_the_key(shell: Shell, pause: float) -> None:
    environment = {**shell.environment, **KEYRING, "KEYRING_FAULT": "late-hang"}
    impatient = attrs.evolve(shell, environment=environment)
    hanging = Path(environment["KEYRING_FILE"]).with_suffix(".hanging")
    async with RawServer(lambda _: GRANTED) as server, asyncio.timeout(PATIENCE):
        process = await impatient.start("exchange", "a-code", "--base-url", server.base_url)
        await asyncio.to_thread(wait_until, hanging.exists)
        for _ in range(3):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            await asyncio.sleep(pause)
        out, err = await process.communicate()
    (kept,) = os.listdir(shell.data)
    assert json.loads((shell.data / kept).read_text())["key"] == KEY
    assert kept in out.decode() + err.decode()


@pytest.mark.parametrize("store", ["file", "print"])
@pytest.mark.parametrize("stdout", ["full", "closed", "latin-1"])
async def test_exchange_with_failing_stdout_loses_no_key(
    shell: Shell, fake: FakeOpenRouter, store: str, stdout: str
) -> None:
    command = [*PROGRAM, "exchange", fake.issue_code(), "--store", store, *at(fake)]
    if store == "file":
        command += ["--file", "key.json"]
    redirect = {"full": ">/dev/full", "closed": ">&-", "latin-1": ">out"}[stdout]
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {redirect}', "sh", *command),
        env={**shell.environment, "PYTHONIOENCODING": "latin-1"},
        cwd=shell.home,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()
    assert process.returncode == (0 if stdout == "latin-1" else 1), err
    assert b"lost" not in err
    if stdout == "latin-1" and store == "print":
        assert (shell.home / "out").read_text().strip() == key_of(fake)
        return
    kept = shell.home / "key.json" if store == "file" else next(shell.data.iterdir())
    assert json.loads(kept.read_text())["key"] == key_of(fake)
    if stdout != "latin-1":
        assert b"The standard output" in err
        assert kept.name.encode() in err


ENV_FILES = [
    (b"A='x\nOPENROUTER_API_KEY=no'\nOPENROUTER_API_KEY=\"old\nolder\" # why\nB=2", b"A='x\nOPENROUTER_API_KEY=no'\n"
     b"OPENROUTER_API_KEY=NEW # why\nB=2"),
    (b"A=1\r\nB=\x0c\x0b\xc2\x85\xff\r\n", b"A=1\r\nB=\x0c\x0b\xc2\x85\xff\r\nOPENROUTER_API_KEY=NEW\r\n"),
    (b"\xef\xbb\xbfOPENROUTER_API_KEY=old\r\nB=2\r\n", b"\xef\xbb\xbfOPENROUTER_API_KEY=NEW\r\nB=2\r\n"),
    (b"# OPENROUTER_API_KEY=x\nA=\"unclosed\nOPENROUTER_API_KEY=old#1", b"# OPENROUTER_API_KEY=x\nA=\"unclosed\n"
     b"OPENROUTER_API_KEY=NEW"),
    (b"A=1", b"A=1\nOPENROUTER_API_KEY=NEW\n"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), ENV_FILES)
async def test_env_file_keeps_every_other_byte(tmp_path: Path, before: bytes, after: bytes) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / ".env"
    path.write_bytes(before)
    sink = EnvSink(path)
    await sink.save("NEW")
    assert path.read_bytes() == after
    stored = await sink.load()
    assert stored is not None
    assert stored.key == "NEW"
    assert await sink.delete()
    assert b"NEW" not in path.read_bytes()


@pytest.mark.parametrize("key", ["a;touch<x", "a&touch<x", "a|touch>x", "(touch)", "~", "a#b", "#a", "*", "a=b", "!a"])
async def test_env_file_that_a_shell_reads_gives_the_key_and_runs_nothing(tmp_path: Path, key: str) -> None:
    # `EnvSink` is given only keys of which the converter approves: with no quotes, dollar signs and backslashes.
    tmp_path.chmod(0o700)
    sink = EnvSink(tmp_path / ".env")
    await sink.save(key)
    stored = await sink.load()
    assert stored is not None
    assert stored.key == key
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", '. ./.env && printf %s "$OPENROUTER_API_KEY"'), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    assert (await process.communicate())[0].decode() == key
    assert os.listdir(tmp_path) == [".env"]


@pytest.mark.unmeasured
async def test_exchange_reads_secrets_with_a_byte_order_mark(shell: Shell, fake: FakeOpenRouter) -> None:
    pair = PKCEPair.generate()
    (shell.home / "verifier").write_text(f"{pair.code_verifier}\r\n", encoding="utf-8-sig")
    code = fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method="S256")
    arguments = ("exchange", "--code-file", "-", "--code-verifier-file", "verifier", *at(fake))
    ended = await shell.run(*arguments, stdin=f"\ufeff{code}\r\n")
    assert ended.status == 0, ended.err


async def test_env_file_in_utf_16_is_refused_by_name(here: Here, home: Path, fake: FakeOpenRouter) -> None:
    (home / ".env").write_text("A=1", encoding="utf-16")
    ended = await here("exchange", fake.issue_code(), "--store", "env", *at(fake))
    assert (ended.status, "UTF-16" in ended.complaint) == (2, True)


async def test_key_file_readable_by_others_is_not_read_but_removed(
    here: Here, home: Path, fake: FakeOpenRouter
) -> None:
    await here("exchange", fake.issue_code(), *at(fake))
    key_file(home / "data" / "openrouter-async", fake).chmod(0o644)
    ended = await here("status", *at(fake))
    assert ended.status == 1
    assert "can be read by others" in ended.err
    assert "The key was removed" in (await here("logout", *at(fake))).out


@pytest.mark.unmeasured
async def test_exchange_interrupted_keeps_the_key(shell: Shell) -> None:
    processes: list[asyncio.subprocess.Process] = []

    def interrupt(_: bytes) -> bytes:
        processes[0].send_signal(signal.SIGINT)
        return GRANTED

    async with RawServer(interrupt) as server, asyncio.timeout(PATIENCE):
        processes.append(await shell.start("exchange", "a-code", "--base-url", server.base_url))
        out, err = await processes[0].communicate()
    assert processes[0].returncode == 130
    # On a busy machine, the keyring may take long enough to be mentioned.
    lines = [line for line in err.decode().splitlines() if not line.startswith("Waiting for the keyring")]
    assert lines == ["openrouter-async: Interrupted."]
    assert b"The key sk-or-v1-" in out
    (kept,) = os.listdir(shell.data)
    assert json.loads((shell.data / kept).read_text())["key"] == KEY


@pytest.mark.parametrize(
    "foreign",
    ["\x1b[2J\x1b]0;title\x07", "user_1\nThe key is in /tmp/x.", "\u202euser\x9b31m", "a\x85b\r\x00", "\ud800"],
)
async def test_foreign_text_on_the_terminal_is_printable(here: Here, foreign: str) -> None:
    granted = json_answer(200, json.dumps({"key": KEY, "user_id": foreign}).encode())
    created = {"data": {"id": foreign, "app_id": 1, "created_at": "2027-01-31T00:00:00Z"}}
    async with ScriptedServer(granted, json_answer(200, json.dumps(created).encode())) as server:
        at_server = ("--base-url", server.base_url)
        shown = [
            await here("exchange", "a-code", *at_server),
            await here("status", "--offline", *at_server),
            await here("create-code", "https://app.example/", "--api-key-file", key_in_a_file(), *at_server),
        ]
    assert [ended.out.count("\n") for ended in shown] == [2, 7, 1]
    for ended in shown:
        assert ended.status == 0
        assert all(line.isprintable() for line in (ended.out + ended.err).split("\n"))


def key_in_a_file() -> Path:
    path = Path("app-key")
    path.write_text("sk-or-v1-app")
    return path


async def test_exchange_in_a_terminal_asks_for_the_code(shell: Shell, fake: FakeOpenRouter) -> None:
    code = fake.issue_code()
    primary, secondary = os.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(*PROGRAM, "exchange", *at(fake)),
            env=dict(shell.environment),
            cwd=shell.home,
            stdin=secondary,
            stdout=asyncio.subprocess.PIPE,
            stderr=secondary,
        )
        os.write(primary, f"{code}\n".encode())
        async with asyncio.timeout(PATIENCE):
            out, _ = await process.communicate()
        screen = os.read(primary, 65536).decode()
    finally:
        for descriptor in (primary, secondary):
            with contextlib.suppress(OSError):
                os.close(descriptor)
    assert process.returncode == 0
    assert b"Signed in as" in out
    assert "The code; it stays hidden: " in screen
