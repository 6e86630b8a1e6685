"""Letters as a real mail server received them: written by a whole house, handed over by SmtpMail, read back octet
by octet by code that shares nothing with the code that wrote them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from email.errors import MessageDefect
from email.message import EmailMessage
from email.policy import SMTP
from functools import cached_property
from html.parser import HTMLParser
from typing import Any

import sqlalchemy as sa

from core import events
from core.automations import parse_automations
from core.community import Answer, Group, GroupId, Member, MemberId, Membership, Site, SiteId, Subscription
from core.consent import Purpose
from core.events import EventId
from integrations.email.render import Renderer
from integrations.email.return_path import ReturnPaths
from integrations.email.transport import mail_from_url
from integrations.email.unsubscribe import AddressHashes, UnsubscribeTokens
from integrations.store.database import Database
from integrations.store.tables import suppressions
from tasks.turn import anything_due
from tasks.writing import Letterhead
from tests.email.smtp_servers import MailServer
from tests.house import Clock, FakeWix, House, a_house, an_event

KEY = "a secret of at least sixteen characters"
"""The one that the web app of tests/test_web_app.py has."""
FROM = "usher@club.example.com"
POSTAL_ADDRESS = "1 Beach Road, Exampletown"
PUBLIC_URL = "https://usher.example.com"

# What sets each shipped letter off in config/automations.toml; any other is a greeting.
_TRIGGERS = {
    "request-received": events.JOIN_REQUESTED,
    "yoga-offer": events.JOIN_REQUESTED,
    "request-declined": events.JOIN_REJECTED,
}
STANDING = {events.MEMBER_ADDED: "joined", events.JOIN_REQUESTED: "pending", events.JOIN_REJECTED: "none"}


SUBSCRIBED = Subscription("SUBSCRIBED", "VALID")


@dataclass(frozen=True)
class Scene:
    """One reader, with what people wrote about themselves and their groups. It is set on a site of its own."""

    name: str
    email: str = ""
    first_name: str = "Ann"
    language: str = "en"
    group: str = ""
    group_name: str = "Trail Runners"
    site_name: str = "Seaside Club"
    reason: str = "The group is full."
    ids: str = ""
    """What site and member ids end with."""
    site_id: str = ""
    subscription: Subscription | None = SUBSCRIBED
    address: str = field(init=False)
    site: SiteId = field(init=False)
    member: MemberId = field(init=False)

    def __post_init__(self) -> None:
        slug = re.sub(r"\W", "-", self.name, flags=re.ASCII)
        object.__setattr__(self, "address", self.email or f"{slug}@example.com")
        object.__setattr__(self, "site", SiteId(self.site_id or f"site-{slug}{self.ids}"[:200]))
        object.__setattr__(self, "member", MemberId(f"member-{slug}{self.ids}"[:200]))

    def group_of(self, standing: str) -> GroupId:
        """Wix's ids are all different, and 200 characters long at most."""
        return GroupId(f"{standing}-{self.group or self.site}"[:200])


class Wix(FakeWix):
    """As the house's own, with a name for each site."""

    def get_site(self, site: SiteId) -> Site:
        self._ask("get_site")
        return Site(site, self.names[site], "https://club.example.com/", "en")

    def __init__(self) -> None:
        super().__init__({}, {}, {}, {}, {})
        self.names: dict[SiteId, str] = {}

    def know(self, scene: Scene) -> None:
        self.names[scene.site] = scene.site_name
        self.members[scene.member] = Member(
            scene.member, "APPROVED", scene.address, scene.first_name, language=scene.language
        )
        if scene.subscription is not None:
            self.subscriptions[scene.address.lower()] = scene.subscription
        for standing in STANDING.values():
            group = scene.group_of(standing)
            self.groups[group] = Group(group, scene.group_name)
            self.memberships[group, scene.member] = Membership(standing)
            self.answers[group, scene.member] = (Answer("What do you like?", f"yoga, {scene.first_name}"),)


@dataclass(frozen=True)
class Letter:
    """One letter, as it came in. `mail` and `rcpt` are the command lines of its envelope, `wire` is what followed
    DATA, the final dot left out."""

    scene: Scene
    row: sa.Row[Any]
    mail: bytes
    rcpt: tuple[bytes, ...]
    wire: bytes

    def __str__(self) -> str:
        return f"{self.row.automation}, {self.scene.name}"

    @property
    def purpose(self) -> Purpose:
        return Purpose(self.row.purpose)

    @cached_property
    def octets(self) -> bytes:
        """RFC 5321, 4.5.2: of a line that begins with a dot the first character goes."""
        return re.sub(rb"(\A|\r\n)\.", rb"\1", self.wire)

    @property
    def envelope_from(self) -> str:
        return _path(self.mail)

    @property
    def envelope_to(self) -> str:
        [rcpt] = self.rcpt
        return _path(rcpt)

    @cached_property
    def message(self) -> EmailMessage:
        message = message_from_bytes(self.octets, policy=SMTP)
        assert isinstance(message, EmailMessage)
        return message

    @cached_property
    def head(self) -> list[tuple[str, bytes]]:
        """Names in lower case and whole fields, folds and all."""
        fields = re.split(rb"\r\n(?![ \t])", self.octets.partition(b"\r\n\r\n")[0])
        return [(whole.partition(b":")[0].decode("ascii").lower(), whole) for whole in fields]

    def header(self, name: str) -> str:
        """Unfolded, and nothing decoded. Fails unless it is there exactly once."""
        [whole] = [whole for known, whole in self.head if known == name.lower()]
        return re.sub(r"\r\n(?=[ \t])", "", whole.partition(b":")[2].decode()).strip()

    def has(self, name: str) -> bool:
        return name.lower() in dict(self.head)

    @cached_property
    def parts(self) -> tuple[str, str]:
        """Text and HTML."""
        text, html = self.message.iter_parts()
        return text.get_content(), html.get_content()

    @property
    def text(self) -> str:
        return self.parts[0]

    @cached_property
    def html(self) -> Page:
        return Page(self.parts[1])

    @property
    def ways_out(self) -> list[str]:
        """What stands between the brackets of List-Unsubscribe, in order (RFC 2369, 3.2)."""
        return [way.strip().strip("<>") for way in self.header("List-Unsubscribe").split(",")]

    @property
    def one_click(self) -> str:
        return next(way for way in self.ways_out if way.startswith("https:"))

    @property
    def mail_to_unsubscribe(self) -> str:
        [way] = [way for way in self.ways_out if way.startswith("mailto:")]
        return way.removeprefix("mailto:").partition("?")[0]


class Page(HTMLParser):
    """The links of a page, each with what is written on it, and all that is written anywhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.words = ""
        self._open: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._open = dict(attrs).get("href") or ""
            self.links.append((self._open, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._open = None

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._open is not None:
            link, said = self.links[-1]
            self.links[-1] = (link, said + data)


def _path(command: bytes) -> str:
    return command[command.index(b"<") + 1 : command.index(b">")].decode()


def transactions(heard: bytes) -> Iterator[tuple[bytes, tuple[bytes, ...], bytes]]:
    """MAIL, RCPTs and data of every letter whose final dot came, from all that a server heard."""
    mail, rcpt = b"", ()
    while heard:
        line, _, heard = heard.partition(b"\r\n")
        verb = line[:4].upper()
        if verb == b"MAIL":
            mail, rcpt = line, ()
        elif verb == b"RCPT":
            rcpt = (*rcpt, line)
        elif verb == b"DATA":
            wire, dot, heard = heard.partition(b"\r\n.\r\n")
            if dot:
                yield mail, rcpt, wire + b"\r\n"


def every_letter(templates: Iterable[str], *purposes: Purpose) -> str:
    """An automations file with each of them for each purpose."""
    tables = []
    for template in sorted(templates):
        for purpose in purposes or tuple(Purpose):
            trigger = _TRIGGERS.get(template, events.MEMBER_ADDED)
            tables.append(
                f'[[automation]]\nname = "{template}-{purpose}"\non = ["{trigger}"]\n'
                f'purpose = "{purpose}"\nemail = "{template}"\n'
            )
            if template == "yoga-offer":
                tables.append('[automation.answers]\nany = ["yoga", "pilates"]\n')
    return "".join(tables)


def payload(scene: Scene, kind: str) -> str:
    """What Wix writes of it: `entityId` is the group's, as in its samples."""
    group = scene.group_of(STANDING[kind])
    if kind == events.JOIN_REQUESTED:
        inner: Mapping[str, Any] = {"createdEvent": {"entity": {"siteMemberId": scene.member}}}
    elif kind == events.JOIN_REJECTED:
        request = {"memberId": scene.member, "requestDetails": {"rejectionReason": scene.reason}}
        inner = {"actionEvent": {"body": {"groupId": group, "joinGroupRequest": request}}}
    else:
        inner = {"actionEvent": {"body": {"groupId": group, "groupMember": {"memberId": scene.member}}}}
    return json.dumps({"entityId": group, **inner})


ONE_OF_EACH = every_letter(["welcome"], Purpose.ONBOARDING) + every_letter(
    ["yoga-offer"], Purpose.PROMOTIONAL
)


class Office:
    """A house whose letters go to a real mail server, and the letters as that server has them."""

    def __init__(
        self,
        database: Database,
        server: MailServer,
        clock: Clock | None = None,
        *,
        automations: str = "",
        url: str = "smtp://127.0.0.1:{port}",
        sender: str = f"Usher <{FROM}>",
        verp: bool = True,
        postal_address: str = POSTAL_ADDRESS,
        renderer: Renderer | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.server = server
        self.wix = Wix()
        self.scenes: dict[MemberId, Scene] = {}
        self.paths = ReturnPaths.from_sender(sender, [KEY])
        self.house: House = a_house(database, self.clock)
        services = self.house.services
        renderer = renderer or services.renderer
        names = renderer.names()
        self.services = replace(
            services,
            wix=self.wix,
            mail=mail_from_url(url.format(port=server.port)),
            renderer=renderer,
            held=parse_automations(automations or every_letter(names), templates=names),
            letterhead=Letterhead(
                sender, postal_address, PUBLIC_URL, UnsubscribeTokens(KEY), self.paths if verp else None
            ),
            hashes=AddressHashes(KEY),
        )
        self.house.services = self.services

    def play(self, *scenes: Scene) -> None:
        self.hear(*scenes)
        self.work()

    def hear(self, *scenes: Scene) -> None:
        """Each reader is let in here, asks to be let in there, and is turned away elsewhere."""
        listened = {kind for automation in self.services.automations.automations for kind in automation.on}
        for scene in scenes:
            self.scenes[scene.member] = scene
            self.wix.know(scene)
            self.house.hear(
                *(
                    replace(
                        an_event(
                            self.clock,
                            type=kind,
                            id=EventId(f"{kind}-{scene.group}"),
                            payload=payload(scene, kind),
                        ),
                        site=scene.site,
                    )
                    for kind in STANDING
                    if kind in listened
                )
            )

    def work(self) -> None:
        """Until nothing is left to do now."""
        for _ in range(100):
            self.house.work()
            if not anything_due(self.services):
                return
        raise AssertionError("the work does not end")

    def rows(self) -> list[sa.Row[Any]]:
        return self.services.ledger.letters()

    def states(self) -> dict[str, tuple[str, str | None]]:
        """By automation; for one scene."""
        return {row.automation: (row.state, row.reason) for row in self.rows()}

    def suppressed(self) -> dict[str, set[str]]:
        """The causes on record, by scope; for one scene."""
        found: dict[str, set[str]] = {}
        with self.house.database.read() as tx:
            for row in tx.execute(sa.select(suppressions)):
                found.setdefault(row.scope, set()).add(row.cause)
        return found

    def letters(self) -> list[Letter]:
        """All that the server heard to the end, whatever it said then; each is found in the ledger by its id."""
        rows = {row.message_id: row for row in self.rows()}
        found = []
        for mail, rcpt, wire in transactions(bytes(self.server.heard)):
            head = wire.partition(b"\r\n\r\n")[0]
            [message_id] = re.findall(rb"^message-id:\s*(\S+)\s*$", head, re.MULTILINE | re.IGNORECASE)
            row = rows[message_id.decode()]
            found.append(Letter(self.scenes[MemberId(row.member)], row, mail, rcpt, wire))
        return found


def objections(letter: Letter) -> list[str]:
    """What a strict reader of RFC 5321, 5322, 2045 and 2047 has to say against these octets."""
    said: list[str] = []
    wire, octets = letter.wire, letter.octets
    if re.search(rb"(?<!\r)\n|\r(?!\n)", wire):
        said.append("a CR or LF alone")
    if found := re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", wire):
        said.append(f"a control character {found[0]!r}")
    if any(len(line) > 998 for line in wire.split(b"\r\n")):
        said.append("a line of more than 998 octets")
    head, _, body = octets.partition(b"\r\n\r\n")
    if not body.isascii():
        said.append("octets beyond ASCII in a body that claims none")
    said += [
        f"a header line that is none: {line!r}"
        for line in head.split(b"\r\n")
        if not re.match(rb"[!-9;-~]+: *\S|[ \t]+\S", line)
    ]
    international = b" SMTPUTF8" in letter.mail
    for name, whole in letter.head:
        if not whole.isascii() and not (international and name == "to"):
            said.append(f"octets beyond ASCII in {name}")
        if any(len(word) > 75 for word in re.findall(rb"=\?[^?\s]*\?[^?\s]*\?[^?]*\?=", whole)):
            said.append(f"an encoded word of more than 75 characters in {name}")
        if any(b"=?" in line and len(line) > 76 for line in whole.split(b"\r\n")):
            said.append(f"an encoded word on a line of more than 76 characters in {name}")
    for part in letter.message.walk():
        said += [f"{part.get_content_type()}: {defect!r}" for defect in part.defects]
    for name, value in letter.message.items():
        if international and name == "To":
            continue  # the parser reads octets as ASCII
        defects: tuple[MessageDefect, ...] = getattr(value, "defects", ())
        said += [f"{name}: {defect!r}" for defect in defects]
    return said
