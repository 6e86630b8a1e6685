"""Who takes part: a community large enough that nobody does anything twice, and what must come of what they do.

Every person sets off one story; the judge knows from the story alone which letters they must have, once each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

OWNER = "owner@example.com"
OPEN, CLOSED = "Open House", "Closed Circle"
QUESTION = "What brings you here?"

AUTOMATIONS = """
[[automation]]
name = "welcome"
on = ["member_added", "join_approved"]
purpose = "onboarding"
email = "welcome"

[[automation]]
name = "request-received"
on = ["join_requested"]
purpose = "onboarding"
email = "request-received"

[[automation]]
name = "let-teachers-in"
on = ["join_requested"]
decide = "approve"
[automation.answers]
any = ["certified teacher"]
"""

STORIES = {
    "added": ("welcome",),
    "added, told fifty times": ("welcome",),
    "asked, let in by a rule": ("request-received", "welcome"),
    "asked, let in by an admin": ("request-received", "welcome"),
}
"""Story -> the automations whose letters it has to lead to."""


@dataclass(frozen=True, slots=True)
class Person:
    email: str
    story: str
    fault: str
    """During which fault they did it."""
    acted_at: float


def community(people: int) -> dict[str, Any]:
    """A body for the sandbox's PUT /sandbox/community: everybody subscribed, nobody in a group yet."""
    emails = [_email(number) for number in range(people)]
    return {
        "site": {"name": "Fire Drill", "url": "https://drill.example.com", "language": "en"},
        "groups": [
            {"name": OPEN, "privacy": "PUBLIC", "owner": OWNER},
            {
                "name": CLOSED,
                "privacy": "PRIVATE",
                "owner": OWNER,
                "questions": [{"text": QUESTION, "required": True}],
            },
        ],
        "members": [
            {"first": "Olga", "email": OWNER, "privacyStatus": "PUBLIC"},
            *(
                {"first": f"P{number}", "email": email, "privacyStatus": "PUBLIC"}
                for number, email in enumerate(emails)
            ),
        ],
        "subscriptions": dict.fromkeys(emails, "SUBSCRIBED"),
        "memberships": [{"group": group, "members": [OWNER], "role": "ADMIN"} for group in (OPEN, CLOSED)],
    }


def stories(random: Random) -> Iterator[tuple[str, str]]:
    """An address and a story, without end: most people are added, some ask."""
    number = 0
    while True:
        chance = random.random()
        if chance < 0.02:
            story = "added, told fifty times"
        elif chance < 0.8:
            story = "added"
        else:
            story = "asked, let in by a rule" if chance < 0.9 else "asked, let in by an admin"
        yield _email(number), story
        number += 1


def acts(email: str, story: str) -> list[dict[str, Any]]:
    """Bodies of the sandbox's POST /sandbox/acts, in their order."""
    if story == "added":
        return [{"act": "add_member", "group": OPEN, "member": email}]
    if story == "added, told fifty times":
        return [{"act": "add_member", "group": OPEN, "member": email, "webhook": {"copies": 50}}]
    answer = "I am a certified teacher" if story == "asked, let in by a rule" else "The people"
    asks = {"act": "request_join", "group": CLOSED, "member": email, "answers": {QUESTION: answer}}
    if story == "asked, let in by a rule":
        return [asks]
    return [asks, {"act": "approve", "group": CLOSED, "member": email}]


def _email(number: int) -> str:
    return f"p{number:05}@example.org"
