"""A single-page app that signs in by a popup or a tab, and a service worker that sends each callback twice."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from playwright.async_api import Page

from tests.integrations.support import respond

HOME = """<!doctype html><html lang="en"><title>My app</title>
<button id="popup">Popup</button><button id="tab">Tab</button><button id="cancel">Cancel</button>
<p id="told"></p><p id="status"></p>
<script>
let started, told = [];
const note = message => { told.push(message); document.querySelector("#told").textContent = JSON.stringify(told); };
addEventListener("message", event => note({origin: event.origin, ...event.data}));
new BroadcastChannel("openrouter-login").onmessage = event => note({channel: true, ...event.data});
async function begin(display) {
    const answer = await fetch(`/login?next=/done&display=${display}`, {method: "POST"});
    started = await answer.json();
    return started.authorization_url;
}
async function follow() {
    const answer = await (await fetch(started.status_url + "?wait=20")).json();
    document.querySelector("#status").textContent = answer.error ? answer.error.type : answer.type ?? answer.status;
}
document.querySelector("#popup").onclick = async () => {
    const popup = open("about:blank", "_blank", "popup,width=500,height=600");
    popup.location = await begin("popup");
    follow();
};
document.querySelector("#tab").onclick = async () => {
    const tab = open("about:blank", "_blank");
    const url = await begin("page");
    tab.opener = null;
    tab.location = url;
    follow();
};
document.querySelector("#cancel").onclick = async () => { await fetch(started.status_url, {method: "DELETE"}); };
</script></html>"""

# It sends each callback twice at once, as workers do that fetch in advance.
WORKER = """self.addEventListener("install", () => skipWaiting());
self.addEventListener("activate", event => event.waitUntil(clients.claim()));
self.addEventListener("fetch", event => {
    if (!new URL(event.request.url).pathname.startsWith("/callback/")) return;
    event.respondWith((async () => {
        const twice = [fetch(event.request.url, {redirect: "manual"}), fetch(event.request)];
        return (await Promise.all(twice))[1];
    })());
});"""


def make_routes(kind: str) -> Mapping[str, Any]:
    """Return the handlers of the app, for a framework."""
    return {
        "/": answer(kind, HOME),
        "/done": answer(kind, "<title>Done</title>"),
        "/worker.js": answer(kind, WORKER, "text/javascript"),
    }


def answer(kind: str, body: str, content_type: str = "text/html") -> Any:
    """Return a handler of a framework that answers with a text."""

    async def handle(request: Any) -> Any:
        response = respond(kind, body)
        response.headers["Content-Type"] = content_type
        return response

    return handle


async def press(page: Page, button: str) -> Page:
    """Press a button that opens a window, and return the window at OpenRouter's page."""
    async with page.expect_popup() as opened:
        await page.locator(f"#{button}").click()
    window = await opened.value
    await window.wait_for_url("**/auth?**")
    return window


async def say(window: Page, answer: str) -> None:
    # The window may close before the click is over.
    with contextlib.suppress(Exception):
        await window.get_by_role("button", name=answer).click()


async def register_worker(page: Page) -> None:
    """Register the service worker, and wait until it has control of the page."""
    await page.evaluate("navigator.serviceWorker.register('/worker.js')")
    await page.wait_for_function("navigator.serviceWorker.controller !== null")
