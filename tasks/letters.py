"""Work off the ledger: claim letters, ask whether each may go, and hand it over, once.

One Wix call serves a hundred members, so letters are claimed and checked by the batch, and sent one by one.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from core.automations import Automation
from core.community import Member, Site, SiteId
from core.consent import Purpose
from core.errors import (
    AppError,
    Blame,
    ForbiddenError,
    IntegrationError,
    JournalUnavailableError,
    LostLeaseError,
    MailDeferredError,
    MailInDoubtError,
    MailRefusedError,
    PermanentError,
    RetryableError,
    SenderPausedError,
    WithdrawnError,
)
from core.gate import Defer, Facts, Send, Skip, decide, objection
from core.letters import MAIL_GIVES_UP_AFTER, retry_delay_s
from core.ports import WixPort
from integrations.email.unsubscribe import UnsubscribeClaim
from integrations.store.jobs import DueJob
from integrations.store.ledger import ClaimedLetter
from tasks.claims import Break, let_rest, work_through
from tasks.facts import People, look_up
from tasks.ground import ground
from tasks.services import Services
from tasks.writing import Reader, write_letter

log = logging.getLogger(__name__)

REFUSED_DELAY_S = 900.0
ENOUGH_TRIES = 12
"""However long a letter waited for us, for a pause or a cap: the mail server gets so many tries."""
SHORT_WAIT_S = 1.0
"""A letter is held in hand for so long until its turn comes; for longer it goes back to the others."""
NEVER_LATE_S = 3650 * 86400.0
JOB_SHARE = 0.9
"""Of the letters of a minute and of a day: or else nobody could be welcomed on the day of a large mailing."""
JOB_WAIT_S = 5.0
"""The same for a letter of a job, whose hundred is not broken up for it; live letters go out meanwhile."""
QUICK_S = 0.001
"""A kind of letter that takes no longer to write may be written while a mark is committed."""
RECORDING_S = 900.0
"""How long the mail server's answer waits for a database that is away. The lease ends long before, so the letter
shows as in doubt meanwhile."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """How long letters may be sent, how one waits for its place in the pace, and what is asked between two letters."""

    ends_at: float
    wait: Callable[[float], None] = time.sleep
    short_wait_s: float = SHORT_WAIT_S
    stop: Callable[[], bool] = lambda: False
    patient: WixPort | None = None
    """How Wix is asked for a job: what has to wait is raised then, and costs none of its letters an attempt."""
    halted: list[IntegrationError] = field(default_factory=list)
    """What Wix said, when it kept a letter of a job from going on."""


def deliver_letters(
    services: Services, *, batch: int = 100, for_s: float = 5.0, leave_line: bool = True
) -> bool:
    """Deliver due letters, those of jobs apart, for about `for_s`; True when more are left. What was not begun is given
    back, so what Wix said of a reader's consent is never older than one turn when their letter goes.

    `leave_line`: with nothing left to send, the connection is for others.
    """
    try:
        return _deliver_live(services, _Turn(time.monotonic() + for_s), batch, leave_line)
    finally:
        try:
            services.recorder.settle()
        finally:
            services.ledger.hands_free()


def _deliver_live(services: Services, turn: _Turn, batch: int, leave_line: bool) -> bool:
    while (left_s := turn.ends_at - time.monotonic()) > 0:
        room, wait_s = services.pacer.room(batch, left_s)
        if not room and wait_s >= left_s:
            return False
        if not room:
            time.sleep(wait_s)
            continue
        claimed = services.ledger.claim(room)
        if not claimed:
            if leave_line:
                leave_the_line(services)
            return False
        if not services.slots.hold():  # others have all the connections there may be
            services.ledger.give_back(claimed)
            services.mail.close()
            return False
        _deliver_batch(claimed, services, turn)
    return True


def deliver_for_jobs(services: Services, pause: Break, *, batch: int = 100, for_s: float = 120.0) -> bool:
    """Deliver letters of running jobs, a hundred of one job at a time, and whatever live letter comes between two of
    them; True when more are due.

    A part of a hundred costs as many calls to Wix as all of it, so after the first only whole ones are begun.
    """
    ends_at = time.monotonic() + for_s
    begun = False
    try:
        while (left_s := ends_at - time.monotonic()) > 0 and not pause.ending():
            pause.serve()
            room, _ = services.pacer.room(batch, left_s, share=JOB_SHARE)
            if not room or (begun and room < batch):
                return bool(room)
            job = services.jobs.with_due_letters(services.chance())
            if job is None:
                return False
            claimed = services.bulk.claim(room, job=job.id)
            if not claimed:  # what was due is in doubt by now, or somebody else was quicker
                services.jobs.look_again(job.id)
                return False
            if not services.slots.hold():
                services.bulk.give_back(claimed)
                services.mail.close()
                return False
            begun = True
            if not _deliver_for_job(job, claimed, services, pause, ends_at):
                return False
    finally:
        services.bulk.hands_free()
    return True


def _deliver_for_job(
    job: DueJob, claimed: Sequence[ClaimedLetter], services: Services, pause: Break, ends_at: float
) -> bool:
    """See one hundred through. False: Wix cannot be asked just now."""
    letters = [replace(letter, context={**job.context, **letter.context}) for letter in claimed]
    looked_at = time.monotonic()
    stopped = False

    def stop() -> bool:
        nonlocal looked_at, stopped
        pause.serve()
        if time.monotonic() - looked_at > 0.5:
            looked_at = time.monotonic()
            stopped = stopped or not services.jobs.is_running(job.id)
        return stopped or pause.ending()

    wix = services.wix.for_bulk(pause.patience(ends_at))
    turn = _Turn(ends_at, pause.wait, JOB_WAIT_S, stop, wix)
    try:
        see_through = _check_site(job.site, letters, services, turn)
    except RetryableError as exc:
        services.bulk.give_back(letters)
        if exc.counts:
            let_rest(job.site, exc, services)
        log.info("job.letters_wait", extra={"job": job.id, "site": job.site, "error": str(exc)})
        return False
    except BaseException:
        services.bulk.give_back(letters)
        raise
    try:
        work_through(letters, see_through, services.bulk.give_back, ends_at, stop)
    finally:
        services.recorder.settle()
    services.jobs.look_again(job.id)
    return not turn.halted


def leave_the_line(services: Services) -> None:
    """Nothing to send: where connections are counted, another worker may have this one."""
    if services.slots.held:
        services.mail.close()
        services.slots.free()


def _deliver_batch(claimed: Sequence[ClaimedLetter], services: Services, turn: _Turn) -> None:
    by_site: dict[SiteId, list[ClaimedLetter]] = defaultdict(list)
    for letter in claimed:
        by_site[letter.site].append(letter)
    try:
        while by_site and time.monotonic() < turn.ends_at:
            site, letters = by_site.popitem()
            _deliver_for_site(site, letters, services, turn)
    finally:
        if by_site:
            services.ledger.give_back([letter for letters in by_site.values() for letter in letters])


def _deliver_for_site(
    site: SiteId, letters: Sequence[ClaimedLetter], services: Services, turn: _Turn
) -> None:
    try:
        see_through = _check_site(site, letters, services, turn)
    except AppError:
        services.ledger.give_back(letters)
        raise
    except Exception as exc:
        log.exception("letters.defect", extra={"site": site})
        defect = MailDeferredError(f"a defect of Usher: {type(exc).__name__}")
        for letter in letters:
            _put_off(letter, defect, services)
        return
    work_through(letters, see_through, services.ledger.give_back, turn.ends_at)


def _check_site(
    site: SiteId, letters: Sequence[ClaimedLetter], services: Services, turn: _Turn
) -> Callable[[ClaimedLetter], bool]:
    """Ask Wix and the suppressions once for all of them; what comes back sees one letter through.

    Raises RetryableError for a job whose turn it is (_Turn.patient).
    """
    services = services.for_one_piece()
    if site in services.sites.removed([site]):
        return lambda letter: _skip(letter, "the app was removed from this site", services)
    wix = turn.patient or services.wix
    try:
        people = look_up(site, {letter.member for letter in letters}, wix, services)
        home = _site_or_nameless(site, wix)
    except IntegrationError as exc:
        if turn.patient is not None and isinstance(exc, RetryableError):
            raise
        obstacle = exc
        if len(letters) > 1 and isinstance(exc, PermanentError) and not isinstance(exc, ForbiddenError):
            # One of them is the reason, and the others need not go down with it.
            return lambda letter: _alone(letter, services, turn)
        return lambda letter: _put_off(letter, obstacle, services)

    domains = {id_: services.hashes.domain_of(member.email) for id_, member in people.members.items()}
    services.senders.look(set(domains.values()))

    drafts = _Drafts(letters, home, people, services)

    def see_through(letter: ClaimedLetter) -> bool:
        try:
            _deliver(letter, drafts, people, domains.get(letter.member, ""), services, turn)
        except SenderPausedError as exc:
            services.ledger.give_back([letter])
            log.info("letters.held", extra={"reason": str(exc)})
            return False
        except LostLeaseError:
            log.warning("letter.lease_lost", extra=_fields(letter))
        except IntegrationError as exc:
            if turn.patient is not None and _is_wixs(exc):
                return _wait_for_wix(letter, exc, services, turn)
            return _put_off(letter, exc, services)
        except AppError:
            raise
        except Exception as exc:
            log.exception("letter.defect", extra=_fields(letter))
            _put_off(letter, MailDeferredError(f"a defect of Usher: {type(exc).__name__}"), services)
        finally:
            services.senders.pass_on()
        return True

    return see_through


def _alone(letter: ClaimedLetter, services: Services, turn: _Turn) -> bool:
    try:
        return _check_site(letter.site, [letter], services, turn)(letter)
    except RetryableError as exc:
        return _wait_for_wix(letter, exc, services, turn)


def _is_wixs(exc: IntegrationError) -> bool:
    return isinstance(exc, RetryableError) and not isinstance(exc, MailDeferredError)


def _wait_for_wix(letter: ClaimedLetter, exc: IntegrationError, services: Services, turn: _Turn) -> bool:
    """A letter of a job goes back untouched, and its hundred with it."""
    turn.halted.append(exc)
    services.bulk.give_back([letter])
    if isinstance(exc, RetryableError) and exc.counts:
        let_rest(letter.site, exc, services)
    return False


def _deliver(
    letter: ClaimedLetter,
    drafts: _Drafts,
    people: People,
    domain: str,
    services: Services,
    turn: _Turn,
) -> None:
    """Decide, write, send and record one letter. Raises what kept it from going out."""
    automation = services.automations.named(letter.row.automation)
    if letter.row.automation and automation is None:
        _skip(letter, f'"{letter.row.automation}" is no longer among the automations', services)
        return
    if automation is not None and not automation.enabled:
        _skip(letter, f'"{automation.name}" is switched off', services)
        return
    facts = _facts_of(letter, automation, people, services)
    verdict = decide(facts)
    if isinstance(verdict, Send) and letter.look_again:
        verdict = decide(
            replace(facts, ground=ground(letter, automation, turn.patient or services.wix, services))
        )
    if isinstance(verdict, Skip):
        _skip(letter, verdict.reason, services, verdict.evidence)
        return
    if isinstance(verdict, Defer):
        _wait(letter, verdict, facts.now, services)
        return

    if _has_its_turn(letter, domain, services, turn):
        _hand_over(letter, drafts, facts, verdict, people.hashes[letter.member], domain, services)


def _facts_of(
    letter: ClaimedLetter, automation: Automation | None, people: People, services: Services
) -> Facts:
    # Whoever plans a letter and whoever edits the file may both ask for more care, never for less.
    careful = Purpose.PROMOTIONAL in (letter.purpose, automation.purpose if automation else None)
    return people.facts(
        letter.member,
        letter.group,
        Purpose.PROMOTIONAL if careful else letter.purpose,
        letter.due_at,
        services,
        # A large mailing takes the days that the pace leaves it; its admin may cancel it.
        not_after_s=NEVER_LATE_S if letter.row.job else automation.not_after_s if automation else None,
    )


class _Drafts:
    """The letters of one site and batch, written when they may go; the next one already while the mark of one is
    committed, which takes longer."""

    def __init__(
        self, letters: Sequence[ClaimedLetter], site: Site, people: People, services: Services
    ) -> None:
        self._next = dict(zip((letter.id for letter in letters), letters[1:], strict=False))
        self._site = site
        self._people = people
        self._services = services
        self._quick: set[tuple[str, str]] = set()
        self._draft: tuple[tuple[str, str, Purpose], tuple[str, bytes]] | None = None

    def write(self, letter: ClaimedLetter, facts: Facts, cleared: Send) -> tuple[str, bytes]:
        """Its Message-ID and its bytes. Raises PermanentError."""
        what = letter.id, cleared.clearance.to, facts.purpose
        if self._draft is not None and self._draft[0] == what:
            return self._draft[1]
        began_at = time.perf_counter()
        written = _write(
            letter, self._site, facts, cleared, self._people.hashes[letter.member], self._services
        )
        # What takes longer than a mark, as the first of a kind does, is not written while a dot waits.
        if time.perf_counter() - began_at < QUICK_S:
            self._quick.add(_kind(letter, facts))
        return written

    def prepare_next(self, letter: ClaimedLetter) -> None:
        following = self._next.get(letter.id)
        if following is None or following.look_again:
            return
        with contextlib.suppress(Exception):  # it will be raised when it is that letter's turn
            automation = self._services.automations.named(following.row.automation)
            facts = _facts_of(following, automation, self._people, self._services)
            cleared = decide(facts) if _kind(following, facts) in self._quick else None
            if isinstance(cleared, Send):
                what = following.id, cleared.clearance.to, facts.purpose
                self._draft = what, self.write(following, facts, cleared)


def _kind(letter: ClaimedLetter, facts: Facts) -> tuple[str, str]:
    return letter.template, facts.member.language if facts.member else ""


def _write(
    letter: ClaimedLetter,
    site: Site,
    facts: Facts,
    cleared: Send,
    address_hashes: Sequence[str],
    services: Services,
) -> tuple[str, bytes]:
    member = facts.member or Member(letter.member)
    return write_letter(
        services.letterhead,
        services.renderer,
        letter.template,
        {
            **letter.context,
            "member_name": member.first_name or member.nickname,
            "site_name": site.name,
            "site_url": site.url,
        },
        purpose=facts.purpose,
        key=f"{letter.site}/{letter.row.key}",
        reader=Reader(
            claim=UnsubscribeClaim(letter.site, letter.member, address_hashes[0], letter.group),
            letter=letter.id,
            group=letter.group,
            email=cleared.clearance.to,
            languages=[language for language in (member.language, site.language) if language],
        ),
        date=services.now(),
    )


def _hand_over(
    letter: ClaimedLetter,
    drafts: _Drafts,
    facts: Facts,
    cleared: Send,
    address_hashes: Sequence[str],
    domain: str,
    services: Services,
) -> None:
    """Write, send and record a letter that may go. Raises what kept it from going out."""
    message_id, message = drafts.write(letter, facts, cleared)

    def meanwhile() -> None:
        services.recorder.settle()
        drafts.prepare_next(letter)

    def about_to_commit() -> None:
        if (late := objection(facts, services.now())) is not None:
            raise MailDeferredError(late, counts=False)
        promotional = facts.purpose is Purpose.PROMOTIONAL
        try:
            services.ledger.mark(
                letter,
                purpose=facts.purpose,
                message_id=message_id,
                address_hashes=address_hashes,
                domain=domain,
                evidence=cleared.evidence,
                heeded=services.senders.heeded(domain),
                cap=facts.policy.promotional_cap if promotional else None,
                meanwhile=meanwhile,
            )
        except SenderPausedError as exc:  # since the look at the whole batch
            services.senders.look_anew()
            raise MailDeferredError(f"letters are paused: {exc}", counts=False) from exc

    sender = services.letterhead.envelope_from(letter.id)
    try:
        reply = services.mail.send(
            cleared.clearance, sender, message, about_to_commit, services.recorder.settle
        )
    except WithdrawnError as exc:
        _skip(letter, str(exc), services)
    except MailInDoubtError as exc:
        said = str(exc)
        _record(lambda: services.ledger.doubt(letter, said), letter)
        services.senders.failed("", said)
        log.error("letter.in_doubt", extra=_fields(letter) | {"error": said})
    except MailDeferredError as exc:
        if exc.blame is Blame.SENDER:
            services.senders.failed("", str(exc))
        if exc.blame is Blame.DOMAIN:  # the mail server spoke with us, so it is not the whole sender
            services.senders.failed(domain, str(exc))
            services.senders.worked("")
        raise
    except MailRefusedError as exc:
        _refused(letter, exc, address_hashes[0], domain, services)
    else:
        services.recorder.follow(_begin_to_record(letter, reply, services))
        try:
            services.senders.worked(domain)
        except AppError:
            raise
        except Exception:  # the letter is out: whatever goes wrong now must not put it off
            log.exception("letter.defect", extra=_fields(letter))


def _refused(
    letter: ClaimedLetter, exc: MailRefusedError, address_hash: str, domain: str, services: Services
) -> None:
    """Final for the letter; the person is left alone only for a dead address, the sender rests for what is ours."""
    said = str(exc)
    if exc.blame is Blame.SENDER:  # no letter at all would go now, so this one waits with the others
        services.senders.pause("", said)
        raise MailDeferredError(said, code=exc.code) from exc
    if exc.address_is_dead:
        dead = f"the address is dead ({said})"
        _record(
            lambda: services.suppressions.dead(
                letter.site, letter.member, address_hash, dead, letter=letter.id
            ),
            letter,
        )
    _record(lambda: services.ledger.fail(letter, said), letter)
    log.warning("letter.refused", extra=_fields(letter) | {"error": said})
    if exc.blame is Blame.DOMAIN:
        services.senders.pause(domain, said)
        services.senders.failed("", said)


def _has_its_turn(letter: ClaimedLetter, domain: str, services: Services, turn: _Turn) -> bool:
    """Whether it may go now by the pace of EMAIL_URL and by how its sender fares; if not, it is deferred.

    Raises SenderPausedError when nobody may be written to.
    """
    pause = services.senders.paused(domain)
    if pause is not None and not pause.domain:
        raise SenderPausedError(pause.reason)
    if pause is not None:
        wait_s = (pause.until - services.now()).total_seconds() * (1.0 + 0.25 * services.chance())
        reason = f"letters to this domain are paused: {pause.reason}"
    else:
        wait_s = services.pacer.take(domain)
        if wait_s > 0:
            services.recorder.settle()
        while 0 < wait_s <= min(turn.short_wait_s, turn.ends_at - time.monotonic()):
            turn.wait(wait_s)
            wait_s = services.pacer.take(domain)
        if wait_s <= 0:
            return True
        reason = "the pace of EMAIL_URL"
    services.ledger.defer(letter, delay_s=max(1.0, wait_s), reason=reason, counts=False)
    log.info("letter.waits", extra=_fields(letter) | {"reason": reason, "delay_s": round(wait_s, 1)})
    return False


def _record(write: Callable[[], None], letter: ClaimedLetter) -> None:
    """Write what the mail server said, however long the database is away: it is the only evidence there is."""
    ends_at = time.monotonic() + RECORDING_S
    while True:
        try:
            write()
            return
        except JournalUnavailableError as exc:
            if time.monotonic() >= ends_at:
                raise
            log.warning("letter.not_recorded_yet", extra=_fields(letter) | {"error": str(exc)})
            time.sleep(1.0)


def _begin_to_record(letter: ClaimedLetter, reply: str, services: Services) -> Callable[[], None]:
    """Begin to write that it went; what is returned waits until it is written."""
    begun: list[Callable[[], None]] = []
    # The letter is out, so nothing may put it off: whatever goes wrong goes wrong again when it is waited for.
    with contextlib.suppress(Exception):
        begun.append(services.ledger.begin_sent(letter, reply))

    def write() -> None:
        wait = begun.pop() if begun else services.ledger.begin_sent(letter, reply)
        wait()

    def see_it_written() -> None:
        try:
            _record(write, letter)
        except LostLeaseError:
            log.warning("letter.lease_lost", extra=_fields(letter))
        log.info("letter.sent", extra=_fields(letter))

    return see_it_written


def _put_off(letter: ClaimedLetter, exc: IntegrationError, services: Services) -> bool:
    """Later, or never, by the type of what happened. False: it was Wix, and the site has to rest."""
    waited = services.now() - letter.due_at
    try:
        tries_on = letter.attempts < ENOUGH_TRIES or waited < MAIL_GIVES_UP_AFTER
        if isinstance(exc, ForbiddenError) and (letter.row.job or waited < MAIL_GIVES_UP_AFTER):
            # Permissions are for a person to mend.
            services.ledger.defer(letter, delay_s=REFUSED_DELAY_S, reason=str(exc), counts=False)
            log.error(
                "letter.deferred", extra=_fields(letter) | {"error": str(exc), "delay_s": REFUSED_DELAY_S}
            )
            return True
        if isinstance(exc, RetryableError) and (not exc.counts or tries_on):
            delay_s = retry_delay_s(
                letter.attempts,
                services.chance(),
                base_s=5.0,
                longest_s=4 * 3600.0,
                asked_s=exc.retry_after_s,
            )
            services.ledger.defer(letter, delay_s=delay_s, reason=str(exc), counts=exc.counts)
            log.info(
                "letter.deferred", extra=_fields(letter) | {"error": str(exc), "delay_s": round(delay_s, 1)}
            )
            if not isinstance(exc, MailDeferredError):
                let_rest(letter.site, exc, services)
                return False
            return True
        services.ledger.fail(letter, str(exc))
        level = logging.ERROR if isinstance(exc, PermanentError | ForbiddenError) else logging.WARNING
        log.log(level, "letter.failed", extra=_fields(letter) | {"error": str(exc)})
    except LostLeaseError:
        log.warning("letter.lease_lost", extra=_fields(letter))
    return True


def _wait(letter: ClaimedLetter, verdict: Defer, now: datetime, services: Services) -> None:
    delay_s = max(1.0, (verdict.until - now).total_seconds())
    services.ledger.defer(
        letter, delay_s=delay_s, reason=verdict.reason, counts=False, evidence=verdict.evidence
    )
    log.info("letter.waits", extra=_fields(letter) | {"reason": verdict.reason, "delay_s": round(delay_s, 1)})


def _skip(letter: ClaimedLetter, reason: str, services: Services, evidence: str | None = None) -> bool:
    services.ledger.skip(letter, reason, evidence)
    log.info("letter.skipped", extra=_fields(letter) | {"reason": reason})
    return True


def _site_or_nameless(site: SiteId, wix: WixPort) -> Site:
    """The site's name is decoration: without the permission to read it letters go out all the same."""
    try:
        return wix.get_site(site)
    except PermanentError as exc:
        log.warning("site.nameless", extra={"site": site, "error": str(exc)})
        return Site(site)


def _fields(letter: ClaimedLetter) -> dict[str, object]:
    return {
        "letter_id": letter.id,
        "site": letter.site,
        "group": letter.group,
        "member": letter.member,
        "automation": letter.row.automation,
        **({"job": letter.row.job} if letter.row.job else {}),
    }
