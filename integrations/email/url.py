"""EMAIL_URL, understood: where letters go, how the way there is secured, and how fast they may go. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import overload
from urllib.parse import parse_qsl, unquote, urlsplit

from core.pacing import Limits

SCHEMES = ("smtp", "smtps", "console")
_OPTIONS = (
    "tls",
    "per_second",
    "per_minute",
    "per_day",
    "domain_per_second",
    "domain_per_minute",
    "domain_per_day",
    "warm_up",
    "connections",
    "verp",
    "timeout_s",
    "reply_timeout_s",
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class EmailUrl:
    """EMAIL_URL, understood. `connections` and `limits` are for all processes together."""

    scheme: str
    host: str = ""
    port: int = 0
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    starttls: bool = False
    connections: int | None = None
    """None: one for each process, however many there are."""
    limits: Limits = field(default_factory=Limits)
    verp: bool = True
    """Each letter may have a return address of its own; off for servers that insist on the exact sender."""
    timeout_s: float = 30.0
    """For each command; tarpits like to answer late."""
    reply_timeout_s: float = 600.0
    """For the reply to the final dot (RFC 5321 section 4.5.3.2.6): giving up early is what makes doubles."""


def parse_email_url(url: str) -> EmailUrl:
    """Raises ValueError with a message that names the mistake and never holds the password."""
    url = url.strip()
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise ValueError(f"must start with {', '.join(f'{known}:' for known in SCHEMES)}")
    if scheme == "console":
        if url.lower() not in ("console:", "console://"):
            raise ValueError("console: takes nothing after it")
        return EmailUrl("console")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # its message may quote the password
        host, port = "", None
    else:
        if port is None and re.search(r":[^\]]*$", parts.netloc.rpartition("@")[2]):
            host = ""
    # A password with / ? # or @ in it makes the rest of the URL fall apart somewhere here.
    if (
        not re.fullmatch(r"[A-Za-z0-9._:-]+", host)
        or port == 0
        or parts.path not in ("", "/")
        or parts.fragment
        or "@" in parts.query
    ):
        raise ValueError(
            f"is not {scheme}://user:password@host:port"
            " (write / ? # @ : and % in the password as %2F %3F %23 %40 %3A %25)"
        )
    options = _options(parts.query)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(user) != bool(password):
        raise ValueError("needs both a user and a password, or neither")
    return EmailUrl(
        scheme=scheme,
        host=host,
        port=port or (465 if scheme == "smtps" else 587),
        user=user,
        password=password,
        starttls=_wants_starttls(scheme, host, options.get("tls", "auto"), has_password=bool(password)),
        connections=_whole(options, "connections", 100),
        limits=_limits(options),
        verp=_switch(options, "verp", default=True),
        timeout_s=_number(options, "timeout_s", 30.0, 1, 600),
        reply_timeout_s=_number(options, "reply_timeout_s", 600.0, 1, 3600),
    )


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            # Shortened, in case it is half a password after all.
            raise ValueError(f"has an unknown option {name[:16]!r} (known: {', '.join(_OPTIONS)})")
    return options


def _limits(options: Mapping[str, str]) -> Limits:
    def rate(name: str) -> float | None:
        return _number(options, name, None, 0.001, 100_000)

    limits = Limits(
        per_second=rate("per_second"),
        per_minute=rate("per_minute"),
        per_day=_whole(options, "per_day", 100_000_000),
        domain_per_second=rate("domain_per_second"),
        domain_per_minute=rate("domain_per_minute"),
        domain_per_day=_whole(options, "domain_per_day", 100_000_000),
        warm_up=_whole(options, "warm_up", 100_000_000),
    )
    if limits.warm_up is not None and limits.per_day is not None and limits.warm_up >= limits.per_day:
        raise ValueError(
            f"option warm_up={limits.warm_up} (letters on the first day) must be below per_day={limits.per_day}"
        )
    return limits


def _whole(options: Mapping[str, str], name: str, high: int) -> int | None:
    if name not in options:
        return None
    text = options[name]
    if not re.fullmatch(r"[0-9]{1,12}", text) or not 1 <= int(text) <= high:
        raise ValueError(f"option {name} must be a whole number from 1 to {high:,}, not {text!r}")
    return int(text)


def _switch(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = options.get(name, "on" if default else "off")
    if text not in ("on", "off"):
        raise ValueError(f"option {name} must be on or off, not {text[:16]!r}")
    return text == "on"


@overload
def _number(options: Mapping[str, str], name: str, default: float, low: float, high: float) -> float: ...
@overload
def _number(
    options: Mapping[str, str], name: str, default: None, low: float, high: float
) -> float | None: ...
def _number(
    options: Mapping[str, str], name: str, default: float | None, low: float, high: float
) -> float | None:
    if name not in options:
        return default
    text = options[name]
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not low <= float(text) <= high:
        raise ValueError(f"option {name} must be a number from {low:g} to {high:,g}, not {text!r}")
    return float(text)


def _wants_starttls(scheme: str, host: str, tls: str, *, has_password: bool) -> bool:
    """Without being told otherwise, only this machine's own mail server is spoken to in clear."""
    if tls not in ("auto", "require", "off"):
        raise ValueError("option tls must be auto, require or off")
    if tls == "off" and (has_password or scheme == "smtps"):
        raise ValueError(
            "option tls=off does not go with a password or smtps: passwords never travel in clear"
        )
    if scheme == "smtps" or tls == "off":
        return False
    return tls == "require" or has_password or host.lower() not in _LOOPBACK
