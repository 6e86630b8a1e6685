"""The day: what people do at Wix, hour by hour, and what must come of it. Data only.

Everything is set off at the sandbox, which tells Usher by signed webhooks as Wix would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

YOGA, RUNNERS, SWIMMERS = "Sunrise Yoga", "Trail Runners", "Open Water Swimmers"
CHOIR, GARDEN = "Harbour Choir", "Community Garden"
CLASS = "Which class are you most interested in?"
SENT, SKIPPED = "sent", "skipped"


@dataclass(frozen=True, slots=True)
class Expected:
    """One row that must be in the ledger (or the outbox, for a decision) when the day is over."""

    who: str
    """The member's address or nickname at Wix."""
    group: str
    automation: str
    state: str
    reason: str = ""
    """How the reason begins."""


@dataclass(frozen=True, slots=True)
class Scene:
    """`acts` are bodies of the sandbox's POST /sandbox/acts. `staging` names what else happens, see play.py."""

    time: str
    text: str
    acts: tuple[dict[str, Any], ...] = ()
    expected: tuple[Expected, ...] = ()
    staging: str = ""


def _added(who: str, group: str, **webhook: Any) -> dict[str, Any]:
    act: dict[str, Any] = {"act": "add_member", "group": group, "member": who}
    return act | ({"webhook": webhook} if webhook else {})


def _asks(who: str, answer: str, group: str = RUNNERS, **webhook: Any) -> dict[str, Any]:
    question = CLASS if group == RUNNERS else "What would you like to do with us?"
    act = {"act": "request_join", "group": group, "member": who, "answers": {question: answer}}
    return act | ({"webhook": webhook} if webhook else {})


def _greeted(who: str, group: str) -> Expected:
    return Expected(who, group, "welcome", SENT)


def _asked(
    who: str, offer: str, reason: str = "", note: str = SENT, group: str = RUNNERS
) -> tuple[Expected, ...]:
    """A request sets off the note and the offer; a refused note has the offer's reason."""
    return (
        Expected(who, group, "request-received", note, "" if note == SENT else reason),
        Expected(who, group, "yoga-offer", offer, reason),
    )


NO_MATCH = "no answer matched"
FORGERIES = (
    "alg_none",
    "hs256",
    "wrong_key",
    "tampered_payload",
    "tampered_signature",
    "expired",
    "not_a_jwt",
)

DAY: tuple[Scene, ...] = (
    Scene(
        "07:30",
        "Ada brings Oscar into the garden group and takes him out again before Wix has told of it",
        (
            _added("oscar.lind@example.org", GARDEN, delay_s=1.5),
            {"act": "remove_member", "group": GARDEN, "member": "oscar.lind@example.org"},
        ),
        (
            Expected(
                "oscar.lind@example.org", GARDEN, "welcome", SKIPPED, "not a member of the group any more"
            ),
        ),
    ),
    Scene(
        "08:00",
        "An admin adds Amara to Sunrise Yoga, and Rosa, who unsubscribed",
        (_added("amara.nwosu@example.org", YOGA), _added("rosa.delgado@example.net", YOGA)),
        (
            _greeted("amara.nwosu@example.org", YOGA),
            Expected("rosa.delgado@example.net", YOGA, "welcome", SKIPPED, "unsubscribed"),
        ),
    ),
    Scene(
        "08:40",
        "Six people ask to join the runners and mention yoga, each in their language",
        (
            _asks("amara.nwosu@example.org", "Yoga before the run, and sun-salutations after"),
            _asks("emilie.rousseau@example.com", "Un peu de l'yoga et beaucoup de montagne"),
            _asks("olena.kovalchuk@example.org", "Біг і йога"),
            _asks("yael.cohen@example.com", "יוגה בבוקר"),
            _asks("wei.li@example.org", "我想学瑜伽和跑步"),
            _asks("misaki.sato@example.com", "朝ヨガに興味があります"),
        ),
        tuple(
            row
            for who in (
                "amara.nwosu@example.org",
                "emilie.rousseau@example.com",
                "olena.kovalchuk@example.org",
                "yael.cohen@example.com",
                "wei.li@example.org",
                "misaki.sato@example.com",
            )
            for row in _asked(who, SENT)
        ),
    ),
    Scene(
        "09:15",
        "The same answer from people who may not be written to, each for another reason",
        tuple(
            _asks(who, "Yoga, please")
            for who in (
                "dmitri@example.com",
                "fang.wang@example.com",
                "nikos.p@example.com",
                "ruth.adeyemi@example.com",
                "kenta.tanaka@example.net",
                "marco.bianchi@example.org",
                "Captain Morgan",
                "theo.baker@example.org",
            )
        ),
        (
            *_asked("dmitri@example.com", SKIPPED, "unsubscribed", SKIPPED),
            *_asked("fang.wang@example.com", SKIPPED, "asked to confirm and has not answered", SKIPPED),
            *_asked("nikos.p@example.com", SKIPPED, "never subscribed (Wix: NOT_SET)", SKIPPED),
            *_asked("ruth.adeyemi@example.com", SKIPPED, "never subscribed (Wix has no record", SKIPPED),
            *_asked("kenta.tanaka@example.net", SKIPPED, "letters to this address bounced", SKIPPED),
            *_asked("marco.bianchi@example.org", SKIPPED, "the reader reported a letter as spam", SKIPPED),
            *_asked("Captain Morgan", SKIPPED, "the member has no address", SKIPPED),
            *_asked("theo.baker@example.org", SKIPPED, "the member is blocked", SKIPPED),
        ),
    ),
    Scene(
        "09:45",
        "João wants no yoga, Ayşe wants hills",
        (
            _asks("joao.pereira@example.org", "Anything but no yoga, I have tried yoga"),
            _asks("ayse.yilmaz@example.com", "Hills, the steeper the better"),
        ),
        (
            *_asked("joao.pereira@example.org", SKIPPED, '"no yoga" in the answer'),
            *_asked("ayse.yilmaz@example.com", SKIPPED, NO_MATCH),
        ),
    ),
    Scene(
        "10:00",
        "Rules decide: a teacher is let in, an advertiser is not, a journalist is left to a person",
        (
            _asks("mei.chen@example.net", "I am a certified teacher and run at dawn"),
            _asks("tamar.beridze@example.org", "Use my promo code RUN10!"),
            _asks("chidi.a@example.net", "I am a journalist, writing about running clubs"),
        ),
        (
            Expected("mei.chen@example.net", RUNNERS, "let-teachers-in", "done"),
            *_asked("mei.chen@example.net", SKIPPED, NO_MATCH),
            _greeted("mei.chen@example.net", RUNNERS),
            Expected("tamar.beridze@example.org", RUNNERS, "keep-advertisers-out", "done"),
            Expected("tamar.beridze@example.org", RUNNERS, "request-declined", SENT),
            Expected(
                "tamar.beridze@example.org",
                RUNNERS,
                "request-received",
                SKIPPED,
                '"keep-advertisers-out" declines',
            ),
            Expected("tamar.beridze@example.org", RUNNERS, "yoga-offer", SKIPPED, NO_MATCH),
            Expected("chidi.a@example.net", RUNNERS, "ask-a-person", "flagged"),
            *_asked("chidi.a@example.net", SKIPPED, NO_MATCH),
        ),
    ),
    Scene(
        "11:00",
        "An admin lets Olena in and declines Wei: approved and added are two events, one welcome",
        (
            {"act": "approve", "group": RUNNERS, "member": "olena.kovalchuk@example.org"},
            {
                "act": "reject",
                "group": RUNNERS,
                "member": "wei.li@example.org",
                "reason": "The spring group is full.",
            },
        ),
        (
            _greeted("olena.kovalchuk@example.org", RUNNERS),
            Expected("wei.li@example.org", RUNNERS, "request-declined", SENT),
        ),
        staging="after the offers",
    ),
    Scene(
        "12:00",
        "Wix delivers one event fifty times",
        (_added("greta.ml@example.org", CHOIR, copies=50),),
        (_greeted("greta.ml@example.org", CHOIR),),
    ),
    Scene(
        "13:00",
        "Wix is away while José joins the choir",
        (_added("jose.alvarez@example.net", CHOIR),),
        (_greeted("jose.alvarez@example.net", CHOIR),),
        staging="wix is away",
    ),
    Scene(
        "14:00",
        "The broker is away while Mate joins the choir",
        (_added("mate.szucs@example.com", CHOIR),),
        (_greeted("mate.szucs@example.com", CHOIR),),
        staging="the broker is away",
    ),
    Scene(
        "15:00",
        "Usher's web process is killed while Elif joins the garden group: Wix comes again",
        (_added("elif.demir@example.org", GARDEN),),
        (_greeted("elif.demir@example.org", GARDEN),),
        staging="the web process is killed",
    ),
    Scene(
        "16:00",
        "Lan is added to the garden group and asks to be forgotten before Wix has told of it",
        (
            _added("lan.nguyen@example.org", GARDEN, delay_s=1.5),
            {"act": "erase_member", "member": "lan.nguyen@example.org"},
        ),
        (Expected("lan.nguyen@example.org", GARDEN, "welcome", SKIPPED, "the person asked to be forgotten"),),
    ),
    Scene(
        "17:00",
        "Strangers post forged deliveries: unsigned, wrongly signed, tampered with, expired",
        staging="forgeries",
    ),
    Scene(
        "18:00",
        "Amara clicks “unsubscribe” in her offer, then asks the swimmers about yoga",
        (_asks("amara.nwosu@example.org", "Swimming and yoga", SWIMMERS),),
        (
            Expected("amara.nwosu@example.org", SWIMMERS, "yoga-offer", SKIPPED, "unsubscribed"),
            Expected("amara.nwosu@example.org", SWIMMERS, "request-received", SKIPPED, "unsubscribed"),
        ),
        staging="one click",
    ),
)
