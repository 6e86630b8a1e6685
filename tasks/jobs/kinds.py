"""Every kind of job there is. A table, as ROUTES is one for events."""

from __future__ import annotations

from tasks.jobs.create_group import CREATE_GROUP
from tasks.jobs.engine import Kind
from tasks.jobs.mailing import GROUP_EMAIL, INTEREST_EMAIL
from tasks.jobs.report import GROUPS_REPORT
from tasks.jobs.rollout import QUESTIONS_ROLLOUT, RULES_ROLLOUT

KINDS: dict[str, Kind] = {
    "group_email": GROUP_EMAIL,
    "interest_email": INTEREST_EMAIL,
    "create_group": CREATE_GROUP,
    "rules_rollout": RULES_ROLLOUT,
    "questions_rollout": QUESTIONS_ROLLOUT,
    "groups_report": GROUPS_REPORT,
}
