"""A request that cannot be meant, with the name of each field that is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import AppError

MOST_ERRORS = 100
"""Of one request that are named."""


class RefusedError(AppError):
    """The request is not one that can be meant. `errors` names each wrong field, and never what it held."""

    def __init__(
        self,
        detail: str = "",
        status: int = 400,
        errors: Sequence[dict[str, str]] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers
        self.errors = list(errors)

    @property
    def first(self) -> str:
        """What is wrong with the first field, or with all of it."""
        return self.errors[0]["detail"] if self.errors else str(self)


def wrong_fields(where: str, *errors: tuple[str, str]) -> RefusedError:
    """`errors`: the name of each field with what is wrong about it; `where` is their place in the request."""
    named = [{"field": field, "detail": detail} for field, detail in errors[:MOST_ERRORS]]
    return RefusedError(f"{where} is not what this address takes", 422, named)
