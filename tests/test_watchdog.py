from __future__ import annotations

import os
import sysconfig

import pytest

from tests.support import ROOT

TESTS = """
import asyncio
import os
import subprocess
import sys
import threading

CHILD = '''
import time

def wait_in_the_child():
    time.sleep(60)

print("ready", flush=True)
wait_in_the_child()
'''

# Before the time of a test begins.
child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, file=open(os.environ["PYTEST_XDIST_WORKER"], "w"))

async def wait_in_a_task():
    await asyncio.get_running_loop().create_future()

def test_that_waits_for_its_child():
    threading.Thread(target=asyncio.run, args=[wait_in_a_task()], daemon=True).start()
    try:
        child.wait()
    finally:
        child.wait()

def test_that_cannot_be_interrupted():
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            pass

def test_after_them():
    pass
"""


def test_test_that_hangs_is_ended_with_the_stacks_of_all_processes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    pytester.makeini(f"[pytest]\npythonpath = {ROOT}\ntimeout = 1\ntimeout_grace = 0.5\n")

    result = pytester.runpytest_subprocess("-p", "tests.watchdog", "-p", "no:asyncio", "--numprocesses", "1")

    result.stdout.fnmatch_lines(["*test_that_cannot_be_interrupted*", "*2 failed, 1 passed*"])
    result.stderr.fnmatch_lines(["*test_that_waits_for_its_child has run*", "*in test_that_waits_for_its_child"])
    # py-spy does not read free-threaded builds.
    in_the_child = "Error: *" if sysconfig.get_config_var("Py_GIL_DISABLED") else "* wait_in_the_child (*"
    result.stderr.fnmatch_lines(["*: wait_in_a_task (*) > Future*", in_the_child])
    with pytest.raises(ProcessLookupError):
        os.kill(int((pytester.path / "gw0").read_text()), 0)
