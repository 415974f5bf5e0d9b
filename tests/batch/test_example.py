from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from openrouter_async.encryption import generate_encryption_key
from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter
from tests.support import ROOT


@attrs.define
class Example:
    """The example, run as its users run it."""

    folder: Path
    fake: FakeOpenRouter
    journal_key: str = attrs.field(factory=generate_encryption_key, repr=False)

    def add(self, *, good: int, bad: int = 0) -> None:
        """Add codes to the file; the bad ones have the verifiers of others."""
        with (self.folder / "codes.jsonl").open("a") as file:
            for number in range(good + bad):
                pair = PKCEPair.generate()
                code = self.fake.issue_code(
                    code_challenge=pair.code_challenge, code_challenge_method=pair.code_challenge_method
                )
                verifier = pair.code_verifier if number < good else PKCEPair.generate().code_verifier
                fields = {"code": code, "code_verifier": verifier, "code_challenge_method": "S256"}
                file.write(json.dumps(fields) + "\n")

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"OPENROUTER_BASE_URL": self.fake.base_url, "JOURNAL_KEY": self.journal_key}
        command = [sys.executable, str(ROOT / "examples" / "batch.py"), *arguments]

        def work() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command,
                cwd=self.folder,
                env=environment | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )

        return await asyncio.to_thread(work)


@pytest.mark.shows_secrets
async def test_batch_example_exchanges_a_file_and_resumes(tmp_path: Path, fake: FakeOpenRouter) -> None:
    example = Example(tmp_path, fake)
    example.add(good=20)
    first = await example.run("codes.jsonl", "journal.db")
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr.splitlines()[-1].startswith("20 keys, 0 failed, 0 done before, ")

    example.add(good=3, bad=1)
    second = await example.run("codes.jsonl", "journal.db")
    assert second.returncode == 1
    assert second.stdout == "line 24: refused: 403 Invalid code or code_verifier\n"
    assert second.stderr.splitlines()[-1].startswith("3 keys, 1 failed, 20 done before, ")
    assert len(fake.requests) == 24

    keys = await example.run("--keys", "journal.db")
    assert sorted(keys.stdout.splitlines()) == sorted(f"{issued.user_id} {issued.key}" for issued in fake.issued_keys)
    assert len(fake.issued_keys) == 23
