"""Requests that only scripts of the app's own pages may send."""

from fastapi import Request

from benchmarks.sites.app import APP_URL
from benchmarks.sites.exchange import SignInError


def check_origin(request: Request) -> None:
    """Refuse a request of another origin's page."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if origin != APP_URL if site is None else site != "same-origin":
        raise SignInError("This request came from another site.", 403)
