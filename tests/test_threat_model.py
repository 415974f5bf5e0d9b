from __future__ import annotations

import re

from tests.support import ROOT

PAGE = ROOT / "docs" / "explanation" / "threat-model.md"


def test_threat_model_names_existing_tests() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.count("|") == 4 and "---" not in line]
    rows = [row for row in rows if "| shown by |" not in row]
    named = set(re.findall(r"`(test_\w+)`", "\n".join(rows)))
    without = [row for row in rows if "`test_" not in row and "not applicable" not in row]
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert without == []
    assert named - defined == set()
    assert len(rows) > 25
