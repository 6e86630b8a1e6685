"""A name server of one's own on 127.0.0.1: real questions and answers over UDP, from a dictionary."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from integrations.dns import Resolver

Zone = Mapping[tuple[str, str], Sequence[str]]
"""Records by name and type, as a zone file spells them; the type "SERVFAIL" makes the server fail over a name,
"" over all of them."""


@contextmanager
def name_server(zone: Zone) -> Iterator[Resolver]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            sock.sendto(answer(zone, dns.message.from_wire(data)).to_wire(), self.client_address)

    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield Resolver(["127.0.0.1"], server.server_address[1])
        finally:
            server.shutdown()
            thread.join(10)


def answer(zone: Zone, asked: dns.message.Message) -> dns.message.Message:
    [question] = asked.question
    name, kind = question.name.to_text().rstrip(".").lower(), dns.rdatatype.to_text(question.rdtype)
    reply: Any = dns.message.make_response(asked)
    reply.flags |= dns.flags.RA
    if (name, "SERVFAIL") in zone or ("", "SERVFAIL") in zone:
        reply.set_rcode(dns.rcode.SERVFAIL)
    elif records := zone.get((name, kind)):
        reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *records))
    elif not any(known == name for known, _ in zone):
        reply.set_rcode(dns.rcode.NXDOMAIN)
    return reply  # type: ignore[no-any-return]
