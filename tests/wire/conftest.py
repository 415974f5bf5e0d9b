from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from tests.support import LOOPS
from tests.wire.audit import Audit


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops are supported, and differ in how they read, write, connect and close."""
    return LOOPS


@pytest.fixture(autouse=True)
async def audit() -> AsyncIterator[Audit]:
    """Nothing of these tests may show a secret, leave a task behind, or have the loop complain."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    auditor = Audit()
    root = logging.getLogger()
    level = root.level
    root.addHandler(auditor)
    root.setLevel(logging.DEBUG)
    before = asyncio.all_tasks()
    try:
        yield auditor
    finally:
        root.removeHandler(auditor)
        root.setLevel(level)
    assert auditor.leaks == []
    assert complaints == []
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
