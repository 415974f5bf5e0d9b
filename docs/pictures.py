"""Takes the pictures of the documentation: `python docs/pictures.py` writes them to `docs/_static`.

They show what users see: the consent page of the sandbox in Chromium, and the bar of `openrouter-async batch` in a
terminal. It needs the dependencies of the tests.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import itertools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from html import escape
from pathlib import Path
from typing import Final

import pyte
from PIL import Image
from playwright.async_api import async_playwright

from openrouter_async.login import authorization_url
from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter

FOLDER: Final = Path(__file__).parent / "_static"
_COLUMNS: Final = 54
_CODES: Final = 4000
_TEXT: Final = "#d0d7de"
_COLOURS: Final = {"default": _TEXT, "green": "#3fb950", "cyan": "#56d4dd", "red": "#ff7b72", "magenta": "#f778ba"}


async def picture_consent(fake: FakeOpenRouter) -> None:
    """The page that asks the user."""
    pair = PKCEPair.generate()
    url = authorization_url(
        callback_url="https://app.example/callback",
        code_challenge=pair.code_challenge,
        code_challenge_method=pair.code_challenge_method,
        key_label="My app",
        limit=10,
        auth_url=fake.auth_url,
    )
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = await browser.new_page(
                viewport={"width": 560, "height": 420}, color_scheme="dark" if scheme == "dark" else "light"
            )
            await page.goto(str(url))
            picture = Image.open(io.BytesIO(await page.screenshot(full_page=True)))
            # There are few colours in it, and so the file is a third as large.
            picture.convert("RGB").quantize(64).save(FOLDER / f"consent-{scheme}.png", optimize=True)
        await browser.close()


def picture_batch(fake: FakeOpenRouter) -> None:
    """A terminal in the middle of a batch."""
    with tempfile.TemporaryDirectory() as folder:
        # A few codes that were never issued, as in real data.
        codes = (f"mistyped-{number}" if number % 97 == 5 else fake.issue_code() for number in range(_CODES))
        Path(folder, "codes.jsonl").write_text("".join(f'{{"code": "{code}"}}\n' for code in codes))
        screen = _run(folder, "batch", "codes.jsonl", "keys.jsonl", "--base-url", fake.base_url)
    (FOLDER / "batch.svg").write_text(_render(screen), encoding="utf-8")


def _run(folder: str, *arguments: str) -> pyte.Screen:
    """Return the terminal's content when a command is a little more than half done."""
    screen = pyte.Screen(_COLUMNS, 4)
    stream = pyte.ByteStream(screen)
    primary, secondary = os.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 4, _COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(_COLUMNS)}
    command = [sys.executable, "-m", "openrouter_async", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=secondary, stderr=secondary)
    os.close(secondary)
    done = 0
    while done < _CODES * 0.6:
        stream.feed(os.read(primary, 65536))
        words = "\n".join(screen.display).split()
        counts = [word.split("/")[0] for word in words if word.endswith(f"/{_CODES}")]
        done = int(counts[0]) if counts else done
    process.terminate()
    process.wait()
    os.close(primary)
    return screen


def _render(screen: pyte.Screen) -> str:
    """The terminal as SVG, with the command that was typed."""
    rows = [[("$ openrouter-async batch codes.jsonl keys.jsonl", "default")]]
    for y in range(screen.lines):
        cells = [screen.buffer[y][x] for x in range(_COLUMNS)]
        if any(cell.data.strip() for cell in cells):
            parts = itertools.groupby(cells, key=lambda cell: cell.fg)
            rows.append([("".join(cell.data for cell in part), colour) for colour, part in parts])
    width, line = 8.4, 22
    height = 24 + line * len(rows)
    shapes = []
    for number, row in enumerate(rows):
        x = 0
        for text, colour in row:
            shown = text.strip()
            if shown:
                start = 16 + (x + len(text) - len(text.lstrip())) * width
                shapes.append(
                    f'<text x="{start:.1f}" y="{29 + number * line}" fill="{_COLOURS.get(colour) or f"#{colour}"}"'
                    f' textLength="{len(shown) * width:.1f}">{escape(shown)}</text>'
                )
            x += len(text)
    said = " ".join("".join(text for text, _ in rows[-1]).replace("━", "").replace("╸", "").replace("╺", "").split())
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {32 + _COLUMNS * width:.0f} {height}" role="img"'
            ' aria-labelledby="batch-title batch-description">',
            '<title id="batch-title">A batch on the command line</title>',
            f'<desc id="batch-description">A terminal with a progress bar: {escape(said)}.</desc>',
            f'<rect width="100%" height="{height}" rx="8" fill="#161b22"/>',
            '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14">',
            *shapes,
            "</g>",
            "</svg>\n",
        )
    )


async def main() -> None:
    """Take all of them."""
    with FakeOpenRouter() as fake:
        await picture_consent(fake)
        await asyncio.to_thread(picture_batch, fake)


if __name__ == "__main__":
    asyncio.run(main())
