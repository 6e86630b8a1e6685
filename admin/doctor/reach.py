"""The way to another machine: name, connection, HTTP. Says what is in the way, in words that lead to a fix."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence
from ipaddress import ip_address

import httpx

from admin.doctor.findings import Subject

CONNECT_S = 5.0
MOST_READ_BYTES = 256 * 1024


class NoWayError(Exception):
    """The text says what is in the way. `is_theirs`: the other side said no, so this is a finding; else this machine
    may just have no network."""

    def __init__(self, text: str, *, is_theirs: bool) -> None:
        super().__init__(text)
        self.is_theirs = is_theirs


def addresses_of(host: str, port: int) -> list[str]:
    """As a connection would find them. Raises NoWayError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        unknown = exc.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
        text = f"{host} has no address" if unknown else f"no answer about the address of {host}"
        raise NoWayError(text, is_theirs=unknown) from exc
    except (OSError, UnicodeError) as exc:
        raise NoWayError(f"{host} is no name of a host", is_theirs=True) from exc
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def require_way(host: str, port: int) -> None:
    """Raises NoWayError when nobody can be connected to there."""
    addresses_of(host, port)
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except TimeoutError as exc:
        raise NoWayError(f"{host}:{port} does not answer within {CONNECT_S:.0f} s", is_theirs=True) from exc
    except OSError as exc:
        no_network = exc.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EACCES)
        raise NoWayError(
            f"{host}:{port}: {exc.strerror or type(exc).__name__}", is_theirs=not no_network
        ) from exc


def private_among(addresses: Sequence[str]) -> list[str]:
    return [address for address in addresses if not ip_address(address.partition("%")[0]).is_global]


def open_http(subject: Subject) -> httpx.Client:
    return httpx.Client(
        verify=subject.trust or True,
        timeout=httpx.Timeout(6, connect=CONNECT_S),
        follow_redirects=False,
        # What is on this machine is never behind the proxy that the environment may name.
        mounts={f"all://{host}": httpx.HTTPTransport(verify=subject.trust or True) for host in _HERE},
        headers={"user-agent": "usher doctor", "accept-language": "en"},  # pages are known by their words
    )


_HERE = ("127.0.0.1", "localhost", "[::1]")


def ask(http: httpx.Client, method: str, url: str, *, content: bytes = b"", kind: str = "") -> httpx.Response:
    """The answer with its body, as far as that is not absurd. Raises NoWayError."""
    try:
        with http.stream(
            method, url, content=content or None, headers={"content-type": kind} if kind else None
        ) as answer:
            body = b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MOST_READ_BYTES:
                    break
            return httpx.Response(answer.status_code, headers=_told(answer.headers), content=body)
    except httpx.HTTPError as exc:
        raise NoWayError(_why(exc), is_theirs=not isinstance(exc, httpx.TimeoutException)) from exc


def _told(headers: httpx.Headers) -> list[tuple[str, str]]:
    """Without what describes the encoding, which is undone."""
    return [
        (name, value)
        for name, value in headers.multi_items()
        if name not in ("content-encoding", "content-length", "transfer-encoding")
    ]


def certificate_error(exc: BaseException | None) -> str:
    """What is wrong with a certificate, if that is what is wrong."""
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return exc.verify_message
        exc = exc.__cause__ or exc.__context__
    return ""


def _why(exc: httpx.HTTPError) -> str:
    if message := certificate_error(exc):
        return f"the certificate cannot be trusted: {message}"
    return f"no answer ({type(exc).__name__})"
