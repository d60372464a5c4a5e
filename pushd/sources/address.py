"""
Addresses: what is written in a configuration or a Location, as origin and rest.

Origins are compared, so they are normalised. The rest goes out as it was
written: what is percent-encoded is neither decoded nor encoded again.
"""

from __future__ import annotations

import re
import string
from typing import cast
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import idna

from pushd.errors import SourceError

_DEFAULT_PORTS = {"http": 80, "https": 443}


def parsed(url: str) -> tuple[str, str]:
    """
    An address's origin, normalised (RFC 6454, section 4), and the rest as written.

    :raises ValueError: it is not an http or https address.
    """
    parts = urlsplit(url)
    match = re.fullmatch(r"[^/]+://[^/?#]*([!-\"$-~]*)(?:#.*)?", url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or match is None:
        raise ValueError("not an http or https address in printable ASCII")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else _encoded(parts)
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    # Not from `parts`: put together again, "/a?" would be without its question mark.
    rest = match[1] if match[1].startswith("/") else f"/{match[1]}"
    return f"{parts.scheme}://{host}{port}", rest


def _encoded(parts: SplitResult) -> str:
    """The host name as DNS wants it (RFC 5891). ValueError if that cannot be had."""
    host = cast("str", parts.hostname)
    if parts.scheme == "http" and "_" in host:
        # Docker networks have such names, certificates do not.
        _ = idna.encode(host.replace("_", "x"))
        return host
    return idna.encode(host, uts46=True).decode("ascii")


def within(origin: str, rest: str, location: bytes) -> str:
    """
    What follows `origin` in the address we are sent to.

    :param location: a Location header, absolute or not (RFC 9110, section 10.2.2).
    :raises SourceError: it is somewhere else, or nowhere.
    """
    try:
        # What must not be in an address is percent-encoded, as in browsers.
        printable = quote(location, safe=string.punctuation)
        other, rest = parsed(urljoin(origin + rest, printable))
    except ValueError as error:
        raise SourceError("The source redirects to what is not an address.") from error
    if other != origin:
        raise SourceError(
            f"The source redirects to another origin ({other}), which is not followed."
        )
    return rest
