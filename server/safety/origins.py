"""Where a request comes from: the name it was sent to, and the page that sent it.

Any page on the web may post a form to a server on this machine, and a name of its own may lead here (DNS rebinding). An address
written in figures cannot be rebound; names are taken only where they are known.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from ..configuration import Configuration
from ..errors import ApiError

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.\-_]{1,253})(?::([0-9]{1,5}))?", re.ASCII)
_SAFE = ("GET", "HEAD", "OPTIONS")


def check_host(headers: Mapping[str, str], configuration: Configuration) -> None:
    """Raise ApiError for a request that was sent to another name than ours."""
    match = _HOST.fullmatch(headers.get("host", ""))
    if match is None:
        raise ApiError(400, "the Host header is missing or none", code="bad_host")
    name = match[1].strip("[]").lower().rstrip(".")
    if name == "localhost" or name in configuration.allowed_hosts or name == configuration.host.lower():
        return
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    if address is None or (configuration.is_loopback and not address.is_loopback):
        raise ApiError(
            403,
            f"this server is not {name[:100]}: edgereel serve takes --allow-host for a name that is meant",
            code="bad_host",
        )


def check_origin(
    method: str, headers: Mapping[str, str], configuration: Configuration, *, always: bool = False
) -> None:
    """Raise ApiError for a change that a page of another site asks for. always: for sockets too, which ask by GET."""
    if method in _SAFE and not always:
        return
    origin = headers.get("origin")
    if origin is not None:
        if origin in configuration.allowed_origins or is_own(origin, headers.get("host", "")):
            return
        raise ApiError(403, "pages of other sites may not change anything here", code="foreign_origin")
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise ApiError(403, "pages of other sites may not change anything here", code="foreign_origin")


def is_own(origin: str, host: str) -> bool:
    """Tell whether an Origin is the page of this server that a Host header names."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and parts.netloc.lower() == host.lower()
