"""Every way in which Usher fails, sorted by what the caller can do about it.

Foreign errors are wrapped at the edge that knows the vendor; everyone above looks at the type only. All
arguments after the message have defaults, because Celery rebuilds errors in another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class AppError(Exception):
    """Root of all errors that Usher raises on purpose."""


class ConfigError(AppError):
    """Not fit to start. `problems` holds one line for each mistake, each naming what and where."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(problems))
        self.message = message
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join((self.message, *(f"  - {problem}" for problem in self.problems)))


class WebhookError(AppError):
    """The caller is wrong; `status_code` is the answer."""

    status_code = 400


class BodyTooLargeError(WebhookError):
    status_code = 413


class InvalidSignatureError(WebhookError):
    """Signature, algorithm or time is wrong."""

    status_code = 401


class ExpiredTokenError(InvalidSignatureError):
    """Rightly signed but past `exp`: counted apart, because Wix may resend old tokens unchanged."""


class MalformedEventError(WebhookError):
    """Rightly signed, but not a delivery as Wix describes it."""

    status_code = 400


class JournalUnavailableError(AppError):
    """The database did not commit: answer 503 and Wix delivers again. `cause`: the name of what a driver raised, where
    it was raised in another process."""

    def __init__(self, *words: object, cause: str = "") -> None:
        super().__init__(*words)
        self.cause = cause


class LostLeaseError(AppError):
    """Somebody else holds the row now: stop, write nothing more."""


class NotThereError(AppError):
    """There is nothing of this id."""


class WrongStateError(AppError):
    """What was asked for does not go with the state the thing is in; nothing was changed."""


class WithdrawnError(AppError):
    """The letter lost its ground after it was checked and before it was handed over; the text is the reason."""


class SenderPausedError(AppError):
    """Nobody is written to for a while; the text is the reason."""


class IntegrationError(AppError):
    """A remote system did not do what we asked. `request_id` is the vendor's own, for their support."""

    def __init__(self, message: str, *, request_id: str = "", code: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id
        self.code = code


class RetryableError(IntegrationError):
    """Again later: after `retry_after_s` when the other side said so. `counts` is False when no attempt
    was made (no budget, open breaker), so that waiting does not use attempts up."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        counts: bool = True,
        request_id: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, request_id=request_id, code=code)
        self.retry_after_s = retry_after_s
        self.counts = counts


class PermanentError(IntegrationError):
    """Again cannot help."""


class NotFoundError(PermanentError):
    """The thing asked for is not there (yet): just after an event this may still be Wix's read side lagging."""


class ForbiddenError(PermanentError):
    """Neither the app's identity nor the second one may make this call."""


class Blame(StrEnum):
    """Whom a mail server's "not now" or "no" speaks against."""

    LETTER = "letter"
    """This letter or its reader; nobody else's."""
    DOMAIN = "domain"
    """All that goes to this reader's domain."""
    SENDER = "sender"
    """All that we send."""


class MailDeferredError(RetryableError):
    """A mail server said 4yz, or the connection broke before the final dot: the letter did not go out."""

    def __init__(
        self,
        message: str,
        *,
        blame: Blame = Blame.LETTER,
        retry_after_s: float | None = None,
        counts: bool = True,
        request_id: str = "",
        code: str = "",
    ) -> None:
        super().__init__(
            message, retry_after_s=retry_after_s, counts=counts, request_id=request_id, code=code
        )
        self.blame = blame


class MailRefusedError(PermanentError):
    """A mail server said 5yz. `address_is_dead` when the address itself is the reason (5.1.x, 5.2.1), so
    that it is never tried again; never set for reasons that lie with us (5.7.x) or the server (5.3.x)."""

    def __init__(
        self,
        message: str,
        *,
        address_is_dead: bool = False,
        blame: Blame = Blame.LETTER,
        request_id: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, request_id=request_id, code=code)
        self.address_is_dead = address_is_dead
        self.blame = blame


class MailInDoubtError(IntegrationError):
    """The final dot went out and the server's answer never came: nobody can know whether it has the letter."""
