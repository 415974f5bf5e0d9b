"""Draws the diagrams and badges of the documentation: `python docs/diagrams.py` writes them to `docs/_static`.

The badges say what `pyproject.toml` says. The diagrams are SVG with the text's own colour, so that they can be read on
light and on dark: inside a page they take its colour, as a picture of their own they ask the browser what is wanted.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

import attrs

FOLDER: Final = Path(__file__).parent / "_static"

_STYLE: Final = """
.diagram { color: #1f2328; font: 14px/1.3 system-ui, -apple-system, "Segoe UI", sans-serif }
@media (prefers-color-scheme: dark) { .diagram { color: #e6edf3 } }
.diagram text { fill: currentColor }
.diagram .name { font-weight: 600 }
.diagram .small { font-size: 12.5px; opacity: .85 }
.diagram .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 12.5px }
.diagram .middle { text-anchor: middle }
.diagram .line { fill: none; stroke: currentColor; stroke-width: 1.5 }
.diagram .faint { stroke-dasharray: 4 4; opacity: .55 }
.diagram .box { fill: currentColor; fill-opacity: .06; stroke: currentColor; stroke-opacity: .45 }
.diagram .note { fill: #b58900; fill-opacity: .16; stroke: #b58900; stroke-opacity: .7 }
.diagram .head { fill: currentColor }
"""


@attrs.define
class Drawing:
    """An SVG that says in words what it shows.

    Attributes:
        name: Its file's name, without the ending.
        title: What it is.
        description: What it shows, for who does not see it.
        width: Its width in pixels.
        height: Its height in pixels.
        shapes: What is on it, from the back to the front.
    """

    name: str
    title: str
    description: str
    width: int
    height: int
    shapes: list[str] = attrs.field(factory=list[str])

    def box(self, x: float, y: float, width: float, height: float, kind: str = "box") -> None:
        """A rectangle with round corners."""
        self.shapes.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>')

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        """One line of text, from x on or around it."""
        self.shapes.append(f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>')

    def line(self, *points: tuple[float, float], kind: str = "line") -> None:
        """A line through points."""
        path = " L".join(f"{x} {y}" for x, y in points)
        self.shapes.append(f'<path class="{kind}" d="M{path}"/>')

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line that ends in a head."""
        (x1, y1), (x2, y2) = points[-2:]
        # All of them go straight up, down, left or right.
        dx, dy = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
        self.line(*points[:-1], (x2 - 6 * dx, y2 - 6 * dy))
        left, right = (x2 - 9 * dx - 4.5 * dy, y2 - 9 * dy + 4.5 * dx), (x2 - 9 * dx + 4.5 * dy, y2 - 9 * dy - 4.5 * dx)
        self.shapes.append(f'<path class="head" d="M{x2} {y2} L{left[0]} {left[1]} L{right[0]} {right[1]} Z"/>')

    def render(self) -> str:
        """The SVG."""
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" class="diagram" viewBox="0 0 {self.width} {self.height}"'
                f' width="{self.width}" role="img" aria-labelledby="{self.name}-title {self.name}-description">',
                f'<title id="{self.name}-title">{escape(self.title)}</title>',
                f'<desc id="{self.name}-description">{escape(self.description)}</desc>',
                f"<style>{_STYLE}</style>",
                *self.shapes,
                "</svg>\n",
            )
        )


_LAYERS: Final = (
    ("client.oauth", "a method with fields, or a request object; checked before anything is sent"),
    ("in flight", "equal exchanges share one request, which outlives its callers; on_key"),
    ("middlewares", "once for each call: rate limit, telemetry, your own"),
    ("retry", "backoff, pauses, a budget, one bound on the time; and what the outcome is"),
    ("attempt_middlewares", "once for each attempt: logging, your own"),
    ("transport", "one pooled aiohttp session; the body is read whole, and no redirect followed"),
)


def draw_layers() -> Drawing:
    """The way of a request through the layers, and of its answer back."""
    drawing = Drawing(
        "layers",
        "The way through the layers",
        "A request goes down through six layers to OpenRouter, and its answer comes back up through the same ones: "
        + "; ".join(f"{name}: {text}" for name, text in _LAYERS)
        + ". The last two are passed by each attempt, the ones above once for each call.",
        720,
        560,
    )
    left, width, height, step, top = 16, 540, 52, 74, 44
    down, up = left + 40, left + width - 40
    drawing.text(down, 18, "request", "small middle")
    drawing.text(up, 18, "key or error", "small middle")
    drawing.arrow((down, 24), (down, top))
    drawing.arrow((up, top), (up, 26))
    for number, (name, text) in enumerate(_LAYERS):
        y = top + number * step
        drawing.box(left, y, width, height)
        drawing.text(left + 16, y + 22, name, "name mono")
        drawing.text(left + 16, y + 41, text, "small")
        drawing.arrow((down, y + height), (down, y + step))
        drawing.arrow((up, y + step), (up, y + height))
    bottom = top + len(_LAYERS) * step
    drawing.box(left, bottom, width, 44, "note")
    drawing.text(left + 16, bottom + 27, "OpenRouter", "name")
    drawing.text(left + 130, bottom + 27, "POST /auth/keys · POST /auth/keys/code", "mono")
    brackets = (
        (0, 1, ("once, however", "many callers")),
        (2, 3, ("once for", "each call")),
        (4, 5, ("for each", "attempt")),
    )
    for first, last, texts in brackets:
        start, end = top + first * step + 2, top + last * step + height - 2
        x = left + width + 14
        drawing.line((x, start), (x + 10, start), (x + 10, end), (x, end))
        for line, text in enumerate(texts):
            drawing.text(x + 22, (start + end) / 2 - 2 + 16 * line, text, "small")
    return drawing


_BROWSER, _APP, _OPENROUTER = 80, 345, 655
# Where an arrow starts and ends, and what it carries; or what is done in the app.
_STEPS: Final[tuple[tuple[int, int, str] | str, ...]] = (
    (_BROWSER, _APP, "GET /login"),
    "start: verifier, state, binding → store",
    (_APP, _BROWSER, "303, and a cookie"),
    (_BROWSER, _OPENROUTER, "/auth?callback_url=…&code_challenge=…&code_challenge_method=S256"),
    (_OPENROUTER, _BROWSER, "the user consents: 302 /callback/STATE?code=…"),
    (_BROWSER, _APP, "GET /callback/STATE?code=…"),
    "finish: state and binding fit; claimed, once",
    (_APP, _OPENROUTER, "POST /auth/keys: code, code_verifier"),
    (_OPENROUTER, _APP, "200: key, user_id"),
    "on_key, on_login: the key is in its safe place",
    (_APP, _BROWSER, "303 to a clean URL"),
)


def draw_login() -> Drawing:
    """What goes between browser, app and OpenRouter, in its order."""
    names = {_BROWSER: "the browser", _APP: "your app", _OPENROUTER: "OpenRouter"}
    told = (
        step if isinstance(step, str) else f"from {names[step[0]]} to {names[step[1]]}, {step[2]}" for step in _STEPS
    )
    top, step_height = 62, 44
    height = top + len(_STEPS) * step_height + 10
    drawing = Drawing("login", "A login, step by step", "; ".join(told) + ".", 740, height)
    for x, name in names.items():
        drawing.box(x - 70, 8, 140, 34)
        drawing.text(x, 30, name[0].upper() + name[1:], "name middle")
    lifelines = {x: [42.0] for x in names}
    for number, step in enumerate(_STEPS):
        y = top + number * step_height
        if isinstance(step, str):
            drawing.box(_APP - 165, y - 6, 330, 30, "note")
            drawing.text(_APP, y + 13, step, "small middle")
            lifelines[_APP] += [y - 6, y + 24]
            continue
        start, end, text = step
        if {start, end} == {_BROWSER, _OPENROUTER}:
            lifelines[_APP] += [y - 6, y + 13]
        drawing.text((start + end) / 2, y + 8, text, "mono middle")
        drawing.arrow((start, y + 18), (end, y + 18))
    for x, points in lifelines.items():
        # They stop where there is something to read.
        ends = [*points, height - 4]
        for start_y, end_y in zip(ends[::2], ends[1::2], strict=True):
            drawing.line((x, start_y), (x, end_y), kind="line faint")
    return drawing


def draw_all() -> Iterable[Drawing]:
    """All diagrams."""
    return draw_layers(), draw_login()


def _badge(label: str, value: str) -> str:
    # The widths are those of 11 px Verdana, near enough; textLength makes the rest fit.
    left, right = (round(6.6 * len(text)) + 12 for text in (label, value))
    title = f"{label}: {value}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{title}">'
        f"<title>{title}</title>"
        f'<rect width="{left + right}" height="20" rx="3" fill="#444c56"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H{left}z" fill="#1f6f4a"/>'
        '<g fill="#fff" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11">'
        f'<text x="6" y="14" textLength="{left - 12}">{label}</text>'
        f'<text x="{left + 6}" y="14" textLength="{right - 12}">{value}</text></g></svg>\n'
    )


def draw_badges() -> dict[str, str]:
    """The badges, by their names: what the settings of the project's tools say, and nothing else."""
    settings = tomllib.loads((FOLDER.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    project, tools = settings["project"], settings["tool"]
    checkers = [
        name for name, is_used in (("mypy", tools["mypy"]["strict"]), ("pyright", "pyright" in tools)) if is_used
    ]
    return {
        "python": _badge("Python", project["requires-python"].replace(">=", "≥ ")),
        "typed": _badge("typed", " + ".join(checkers)),
        "coverage": _badge("branch coverage", f"≥ {tools['coverage']['report']['fail_under']} %"),
        "licence": _badge("licence", project["license"]),
    }


if __name__ == "__main__":
    for made in draw_all():
        (FOLDER / f"{made.name}.svg").write_text(made.render(), encoding="utf-8")
    for name, badge in draw_badges().items():
        (FOLDER / f"badge-{name}.svg").write_text(badge, encoding="utf-8")
