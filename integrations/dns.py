"""DNS, asked briefly: what is published under a name, or nothing. A name server's silence is an error of its own."""

from __future__ import annotations

from collections.abc import Sequence

import dns.exception
import dns.resolver
import dns.reversename
from dns.rdata import Rdata

from core.errors import RetryableError

TRY_S = 2.0
ALTOGETHER_S = 4.0


class Resolver:
    """Every question raises RetryableError when nobody answers it, and answers () for what does not exist.

    Without `nameservers` the machine's own are asked. Safe to share between threads.
    """

    def __init__(self, nameservers: Sequence[str] = (), port: int = 53) -> None:
        self._nameservers = list(nameservers)
        self._port = port
        self._resolver: dns.resolver.Resolver | None = None

    def texts(self, name: str) -> tuple[str, ...]:
        """TXT records; the strings of one record are one text (RFC 7208 section 3.3, RFC 6376 section 3.6.2.2)."""
        return tuple(
            b"".join(record.strings).decode("utf-8", "replace")  # type: ignore[attr-defined] # of TXT
            for record in self._ask(name, "TXT")
        )

    def mail_hosts(self, name: str) -> tuple[str, ...]:
        """The hosts of the MX records, best first; "" is the null MX (RFC 7505)."""
        records = sorted(self._ask(name, "MX"), key=lambda record: record.preference)  # type: ignore[attr-defined]
        return tuple(_plain(record.exchange) for record in records)  # type: ignore[attr-defined]

    def addresses(self, name: str) -> tuple[str, ...]:
        return tuple(str(record) for kind in ("A", "AAAA") for record in self._ask(name, kind))

    def names(self, address: str) -> tuple[str, ...]:
        """What an IP address is called (PTR)."""
        try:
            reverse = dns.reversename.from_address(address).to_text()
        except (dns.exception.DNSException, ValueError):
            return ()
        return tuple(_plain(record.target) for record in self._ask(reverse, "PTR"))  # type: ignore[attr-defined]

    def _ask(self, name: str, kind: str) -> list[Rdata]:
        try:
            if self._resolver is None:
                self._resolver = self._open()
            answer = self._resolver.resolve(name.rstrip(".") + ".", kind, search=False)
            return list(answer)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError, ValueError) as exc:
            raise RetryableError(f"no answer from DNS about {name} ({type(exc).__name__})") from exc

    def _open(self) -> dns.resolver.Resolver:
        resolver = dns.resolver.Resolver(configure=not self._nameservers)
        if self._nameservers:
            resolver.nameservers = list(self._nameservers)
            resolver.port = self._port
        resolver.timeout, resolver.lifetime = TRY_S, ALTOGETHER_S
        resolver.cache = dns.resolver.LRUCache()
        return resolver


def _plain(name: object) -> str:
    return str(name).rstrip(".").lower()
