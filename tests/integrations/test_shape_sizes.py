"""The table of the guide on sign-in shapes, which says how large an app is."""

from __future__ import annotations

import re

from tests.integrations.shapes import GUIDE, SHAPES, count_lines, size


def test_sizes_of_apps_are_those_of_the_guide() -> None:
    rows = re.findall(r"^\| \[[^]]+\]\(#[\w-]+\) \| (.*) \|$", GUIDE.read_text(), re.MULTILINE)
    sizes = [size(shape) for shape in SHAPES]
    assert [tuple(map(int, row.split(" | "))) for row in rows] == [
        (server, page, server + page, by_hand, by_hand + page) for server, by_hand, page in sizes
    ]
    assert all(server + page < 25 for server, _, page in sizes)


def test_count_lines_leaves_out_comments_and_docstrings() -> None:
    python = '''"""A docstring
of two lines."""

# A comment.
def f(
    x=")",  # said of code
):
    """Another."""
    return """not
a docstring"""
'''
    html = "<!-- A comment. -->\n<button>Press</button>\n\n<script>\nf({\n  x: 1\n});\n</script>\n"
    assert count_lines(python, is_python=True) == 4
    assert count_lines(html, is_python=False) == 3
