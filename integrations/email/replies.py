"""What a mail server's reply means for the letter and for the address. Pure.

RFC 5321 section 4.2 has the basic codes, RFC 3463 and 5248 the enhanced ones. When both are there the enhanced
code says why. The words beside them count when there is none, or when it says nothing (x.0.0), and they tell apart
what servers put under one code: too much mail at once, and greylisting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    DONE = "done"
    DEFERRED = "deferred"
    """Not now: again later."""
    REFUSED = "refused"
    """Not at all."""


class Cause(StrEnum):
    """Where the reason for not taking a letter lies. Only `ADDRESS` speaks against the person's address."""

    ADDRESS = "address"
    MAILBOX = "mailbox"
    SENDER = "sender"
    """Our name, our set-up, or what is thought of us."""
    THROTTLE = "throttle"
    """Too much at once: fewer letters will pass."""
    SERVER = "server"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Reply:
    kind: Kind
    cause: Cause
    enhanced: str = ""

    @property
    def address_is_dead(self) -> bool:
        return self.kind is Kind.REFUSED and self.cause is Cause.ADDRESS

    @property
    def mailbox_is_full(self) -> bool:
        # Without a telling code it was the words that named the mailbox, and they name a full one only.
        return self.cause is Cause.MAILBOX and self.enhanced[2:] in ("", "0.0", "2.2")


# Longest match first: a whole code, then a subject ("1.x").
_CAUSES = {
    "1.1": Cause.ADDRESS,  # bad destination mailbox address
    "1.2": Cause.ADDRESS,  # bad destination system address
    "1.3": Cause.ADDRESS,  # bad syntax
    "1.6": Cause.ADDRESS,  # moved
    "1.7": Cause.SENDER,  # bad sender's mailbox address syntax
    "1.8": Cause.SENDER,  # bad sender's system address
    "1.10": Cause.ADDRESS,  # null MX
    "2.1": Cause.ADDRESS,  # mailbox disabled
    "2": Cause.MAILBOX,
    "3": Cause.SERVER,
    "4": Cause.SERVER,
    "7": Cause.SENDER,  # policy and authentication: 5.7.515 and its kin are about us
}
_FULL = "2.2"
"""A full mailbox is emptied one day, whatever class the server gives it."""
_NOTHING_SAID = "0.0"
_SOMETHING_OF_AN_ADDRESS = "1.0"
_CODE = r"([245])\.(\d{1,3})\.(\d{1,3})"
_ENHANCED = re.compile(rf"\s*#?{_CODE}(?=\s|$|[:;,.)-])|.*?\(#{_CODE}\b")  # "(#5.1.1)" is qmail's way
_REPLY = re.compile(r"(?:^|[:;])\s*([245]\d\d)[ -](.*)", re.DOTALL)
_ADDRESS = re.compile(r"[^\s<>\"'():;,]*@[^\s<>\"'():;,]+")
_LONGEST_TEXT = 2000


def _any_of(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_SAYS_GREYLISTED = _any_of("gr[ea]y-?list")
_SAYS_TOO_MUCH = _any_of(
    r"throttl",
    r"\brate[- ]?limit",
    r"\b(sending|unusual|message) rate\b",
    r"\bat a rate\b",
    r"\btoo (quickly|fast|frequently)\b",
    r"\btoo (many|much) (e?-?mails?|messages|connections|recipients|sessions)\b",
    r"(daily|hourly|monthly|sending|submission) ?(user |message |sending )*(quota|limit)",
    r"unexpected volume|unusual rate|due to user complaints",
)
_SAYS_FULL = _any_of(
    r"(mailbox|inbox|postfach|buz[oó]n|casella|bo[iî]te|caixa|skrzynka)\b[^.;:]{0,40}"
    r"\b(full|voll|llen[oa]|pien[oa]|pleine|cheia|pe[lł]na)\b",
    r"\bquota\b.{0,20}\b(exceeded|reached|full|d[eé]pass[eé]|excedida|superata|[uü]berschritten)",
    r"\b(over|exceed(s|ed)?|out of)[- ](the |its |his |storage |disk |mailbox )*quota",
    r"exceeded (the |its |his )?storage|(insufficient|not enough) (disk|storage|mailbox) (space|storage|size)",
)
_TURNED_DOWN = (
    r"blocked|banned|rejected|refused|denied|fail(ed|s|ure)?|invalid|unknown|do(es)?(n'?t| not) exist|"
    r"not (allowed|permitted|authori[sz]ed|found)"
)
_SAYS_OUR_FAULT = _any_of(
    r"\b(spam|dmarc|dkim|spf)\b|\breputation\b|(block|black|deny) ?list",
    r"spamhaus|spamcop|barracuda|\b[rd]nsbl\b|\brbl\b|\b(ptr|rdns)\b|reverse dns",
    r"\b(client host|sender|envelope.from|return.?path|(your|sending) (ip|host|domain|server|network|address))\b"
    r"((?!\b(user|recipient|mailbox)\b).){0,60}"
    rf"\b({_TURNED_DOWN})\b",
    rf"\bfrom:? ?(<>| address| domain| header)? (is |was )?({_TURNED_DOWN})\b",
    r"\b(unknown|invalid|bad|unverified|no such) (sender|return.?path)\b",
    r"\bnot a (confirmed|verified) sender\b|\b(address|domain|identity) is not verified\b|identities failed",
    r"\b(message|mail)\b.{0,20}\b(rejected|blocked|refused|denied)\b.{0,40}\b(content|policy)\b",
    r"\bcontent (denied|rejected)\b|\bAUP#",
    # of the relay, about our account there
    r"\bsending\b.{0,20}\b(suspended|paused|disabled|blocked)\b",
    r"\byour (account|plan|subscription)\b.{0,40}\b(suspended|disabled|blocked|locked|quota|limit|credits?)\b",
    r"\bnot (authori[sz]ed|allowed|permitted) to (send|use|relay)\b",
    r"\brelay(ing)? (access |is )?(denied|not (allowed|permitted))\b|\b(unable|refus\w+|denied) to relay\b",
)
_SAYS_HOSTS = _any_of(
    r"\bhost|name ?server|\bdns\b|\bmx\b|look-?up|resolv|temporar|time(d|-)? ?out|unreachable|connect"
)
_SAYS_ADDRESS_REJECTED = _any_of(r"\baddress rejected\b")
_PEOPLE = (
    r"(user|recipient|mailbox|address|account|benutzer|empf(ä|ae?)nger|postfach|utilisateur|destinataire|adresse|"
    r"usu[aá]rio|destinat[aá]rio|buz[oó]n|utente|casella|gebruiker|ontvanger|u[zż]ytkownik|пользовател[ья])"
)
_ABSENT = (
    r"(unknown|not (found|known)|do(es)?(n'?t| not) exist|no longer exists|invalid|unbekannt|existiert nicht|"
    r"nicht (bekannt|gefunden|vorhanden)|inconnue?|n'existe pas|desconocid[oa]|no existe|inexistente|sconosciut[oa]|"
    r"inesistente|non esiste|desconhecid[oa]|n[aã]o existe|onbekend|bestaat niet|nieznany|nie istnieje|не найден)"
)
_SAYS_NO_SUCH_USER = _any_of(
    rf"\b{_PEOPLE}\b([^.;:]|\.(?=\S)){{0,60}}?\b{_ABSENT}\b",
    rf"\b(unknown|no such|invalid|unbekannter|onbekende|no existe (el|la)|нет такого) (local |e-?mail )?{_PEOPLE}",
    r"\bno mailbox (here )?by that name\b|\bnot a valid (mailbox|recipient|user)\b|\bnot our customer\b",
    r"\b(undeliverable|unrout(e?)able) address\b|用户不存在|收件人不存在",
)


def classify(code: int, text: str) -> Reply:
    """`text` is the reply without its basic code; of several lines the first one with an enhanced code counts.

    Whatever is neither 2yz nor clearly final is deferred: a doubt about a reply costs a retry, not a letter.
    """
    text = text[:_LONGEST_TEXT]
    kind = _kind(code // 100)
    match = next(filter(None, (_ENHANCED.match(line) for line in text.splitlines())), None)
    if match is None:
        status, exact, enhanced = "", _NOTHING_SAID, ""
    else:
        status, subject, detail = (group for group in match.groups() if group is not None)
        exact = f"{subject}.{detail}"
        enhanced = f"{status}.{exact}"
    if kind is Kind.DONE:
        return Reply(kind, Cause.OTHER, enhanced)
    cause = _cause(code, exact, text, final=kind is Kind.REFUSED and status != "4")
    is_full = cause is Cause.MAILBOX and exact in (_FULL, _NOTHING_SAID)
    if status == "4" or is_full:
        kind = Kind.DEFERRED
    return Reply(kind, cause, enhanced)


def classify_status(status: str, text: str = "") -> Reply:
    """`Status` and `Diagnostic-Code` of a delivery report (RFC 3464, 2.3.4 and 2.3.6), as far as they are there.

    The status wins, unless it says nothing; the text is then read as the reply it may hold.
    """
    text = text[:_LONGEST_TEXT]
    said = _REPLY.search(text)
    words = said[2] if said else text
    match = re.match(rf"\s*{_CODE}\b", status)
    if match is None or f"{match[2]}.{match[3]}" == _NOTHING_SAID:
        first = match[1] if match else "5"
        return classify(int(said[1]) if said else int(f"{first}50"), words)
    code = int(said[1]) if said and said[1].startswith(match[1]) else int(f"{match[1]}50")
    return classify(code, f"{match[0]} {words}")


def _cause(code: int, exact: str, text: str, *, final: bool) -> Cause:
    subject = exact.partition(".")[0]
    text = _ADDRESS.sub("", text)  # what people call themselves is no reason
    if exact == _FULL:
        return Cause.MAILBOX
    if not final and _SAYS_GREYLISTED.search(text):
        return Cause.OTHER
    if not final and (exact == "5.3" or (code == 421 and subject == "7")):  # RFC 5248: too many recipients
        return Cause.THROTTLE
    if (subject != "7" or not final) and _SAYS_TOO_MUCH.search(text):
        return Cause.THROTTLE
    if subject in ("0", "1", "2") and _SAYS_OUR_FAULT.search(text):
        return Cause.SENDER
    if exact == "1.2" and _SAYS_HOSTS.search(text):
        return Cause.SERVER
    if exact == _SOMETHING_OF_AN_ADDRESS and _SAYS_ADDRESS_REJECTED.search(text):
        return Cause.ADDRESS
    if exact not in (_NOTHING_SAID, _SOMETHING_OF_AN_ADDRESS):
        return _CAUSES.get(exact) or _CAUSES.get(subject, Cause.OTHER)
    if _SAYS_FULL.search(text):
        return Cause.MAILBOX
    named = code in (550, 551, 553) and _SAYS_NO_SUCH_USER.search(text)  # 554 is said for everything
    return Cause.ADDRESS if named else Cause.OTHER


def _kind(status: int) -> Kind:
    return {2: Kind.DONE, 5: Kind.REFUSED}.get(status, Kind.DEFERRED)


def one_line(text: str, *addresses: str) -> str:
    """Of at most 300 printable characters, without addresses. `addresses` are left out by their halves too: servers
    like to quote the first, and the second may be a name."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text[:2000]).split())
    text = _ADDRESS.sub("<address>", text)
    for address in addresses:
        for half, instead in zip(address.rpartition("@")[::2], ("<address>", "<domain>"), strict=True):
            # Most replies quote nobody, and a pattern of its own for each reader is dear.
            if half and not (half.isascii() and text.isascii() and half.lower() not in text.lower()):
                text = re.sub(rf"(?<!\w){re.escape(half)}(?!\w)", instead, text, flags=re.IGNORECASE)
    return text.replace("<<address>>", "<address>")[:300]
