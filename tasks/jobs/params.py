"""What each kind of job takes, word for word as the API and the command line give it. Strict: a "5" is no number.

A pydantic ValidationError names each wrong field; whoever shows it leaves the values out, which may be personal.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from core.matching import AnswerRule, problem_with_term

MOST_PEOPLE = 10_000
LONGEST_CONTEXT = 20_000
"""Characters of a context as JSON."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"\S")]
Id = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]
Groups = Annotated[list[Text], Field(min_length=1, max_length=1000)]


class _Params(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class _Letter(_Params):
    email: Text
    """A folder of templates/email/."""
    context: dict[str, Any] = {}

    @field_validator("context")
    @classmethod
    def _small(cls, context: dict[str, Any]) -> dict[str, Any]:
        import json  # noqa: PLC0415

        length = 0
        try:
            for part in json.JSONEncoder(allow_nan=False).iterencode(
                context
            ):  # a huge one is not written out
                if (length := length + len(part)) > LONGEST_CONTEXT:
                    break
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        except ValueError:
            raise ValueError("holds a number that is too large, or is none") from None
        if length > LONGEST_CONTEXT:
            raise ValueError(f"is longer than {LONGEST_CONTEXT} characters of JSON")
        return context


class GroupEmail(_Letter):
    """One letter to all members of a group who may get it."""

    group: Text
    """Its id, or its name when no other group of the site has that name."""
    purpose: Literal["promotional", "onboarding"]
    also_later_joiners: bool = False


class Answers(_Params):
    any: list[Text] = []
    all: list[Text] = []
    none: list[Text] = []
    question: Annotated[str, StringConstraints(max_length=300)] = ""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.any and not self.all:
            raise ValueError("names no word to look for: give `any` or `all`")
        for name in ("any", "all", "none"):
            for term in getattr(self, name):
                if problem := problem_with_term(term):
                    raise ValueError(f"{name}: {problem}")
        return self

    def rule(self) -> AnswerRule:
        return AnswerRule(tuple(self.any), tuple(self.all), tuple(self.none), self.question)


class InterestEmail(_Letter):
    """One promotional letter to everybody in these groups whose answers hold the words."""

    groups: Groups = ["*"]
    answers: Answers


class NewGroup(_Params):
    name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"\S")]
    privacyStatus: Literal["PUBLIC", "PRIVATE", "SECRET"] = "PRIVATE"  # noqa: N815 (Wix's word)
    creatorId: Id  # noqa: N815


class ListedPerson(_Params):
    contactId: Id | None = None  # noqa: N815
    email: Annotated[str, StringConstraints(min_length=3, max_length=320)] | None = None
    phone: Annotated[str, StringConstraints(min_length=3, max_length=50)] | None = None
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    row: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Its line in the file it came from; without one its place in the list."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not (self.contactId or self.email or self.phone or self.name):
            raise ValueError("names nobody: give contactId, email, phone or name")
        return self


class CreateGroup(_Params):
    """A group with these people in it, made when it is not there."""

    group: NewGroup
    people: Annotated[list[ListedPerson], Field(min_length=1, max_length=MOST_PEOPLE)]


class NewRule(_Params):
    title: Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"\S")]
    description: Annotated[str, StringConstraints(max_length=10_000)] = ""


class NewQuestion(_Params):
    text: Text
    required: bool = False


class RulesRollout(_Params):
    """The same rules in many groups; or, with `rollback`, what another job replaced put back."""

    from_group: Text | None = None
    rules: Annotated[list[NewRule], Field(max_length=100)] | None = None
    to_groups: Groups = ["*"]
    rollback: Id | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(given is not None for given in (self.from_group, self.rules, self.rollback)) != 1:
            raise ValueError("give from_group, rules or rollback: one of them")
        return self


class QuestionsRollout(_Params):
    """The same membership questions in many groups; an empty list means none."""

    questions: Annotated[list[NewQuestion], Field(max_length=50)] | None = None
    to_groups: Groups = ["*"]
    rollback: Id | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.questions is None) == (self.rollback is None):
            raise ValueError("give questions or rollback: one of them")
        return self


class GroupsReport(_Params):
    top: Annotated[int, Field(ge=1, le=100)] = 10
    idle_days: Annotated[int, Field(ge=1, le=3650)] = 90
    mail_to: Annotated[list[Annotated[str, StringConstraints(max_length=320)]], Field(max_length=20)] = []


PARAMS: dict[str, type[_Params]] = {
    "group_email": GroupEmail,
    "interest_email": InterestEmail,
    "create_group": CreateGroup,
    "rules_rollout": RulesRollout,
    "questions_rollout": QuestionsRollout,
    "groups_report": GroupsReport,
}
"""By kind of job."""
