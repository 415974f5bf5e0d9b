from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.site.pages import Site
from tests.support import ROOT, missing, without_coverage


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Site:
    """The documentation, built once for all processes that run tests."""
    if find_spec("aiogram") is None:
        missing("aiogram")  # The reference documents the integration, and imports it.
    base = tmp_path_factory.getbasetemp()
    # It is for the processes of this run alone, which share the folder above their own.
    folder = (base if worker_id == "master" else base.parent) / "site"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            _build(folder / "html")
            (folder / "built").touch()
    return Site(folder / "html")


def _build(folder: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env"]
    # All but the pages of source code, which take a quarter of the time.
    command.append("--define=extensions=myst_parser,sphinx.ext.autodoc,sphinx.ext.napoleon")
    result = subprocess.run(
        [*command, "--builder", "html", "--doctree-dir", str(folder / ".doctrees"), "docs", str(folder)],
        cwd=ROOT,
        # Neither the checks of this interpreter's development mode nor its coverage concern Sphinx.
        env={name: value for name, value in without_coverage(os.environ).items() if name != "PYTHONDEVMODE"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
