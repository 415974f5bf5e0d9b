from __future__ import annotations

import pytest

from tests.site.pages import Site
from tests.support import ROOT


@pytest.fixture(scope="session")
def site() -> Site:
    """The documentation that `make docs` has built."""
    folder = ROOT / "docs" / "_build" / "html"
    assert (folder / "index.html").is_file(), "`make docs` builds the pages and runs these tests"
    return Site(folder)
