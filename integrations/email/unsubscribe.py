"""The signed links under letters, and the keyed hash by which a suppressed address is remembered."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import idna
from itsdangerous import BadData, URLSafeSerializer
from itsdangerous.encoding import base64_decode, base64_encode

from core.community import GroupId, MemberId, SiteId
from core.errors import AppError

MAX_TOKEN_CHARACTERS = 1024
_LONGEST_WITH_GROUP = 640
PREFIX = "u"  # a packed token begins with a dot, and many a proxy refuses paths with "/."


class InvalidTokenError(AppError):
    """Not a token of ours, or not all of it."""


@dataclass(frozen=True, slots=True)
class UnsubscribeClaim:
    """Whose letters may be stopped: all promotional ones, or those of `group`, whose letter it was. None: links of
    earlier releases did not say. `address_hash` is of the address the letter went to (hash_address)."""

    site: SiteId
    member: MemberId
    address_hash: str
    group: GroupId | None = None


TRIAL = UnsubscribeClaim(SiteId("trial"), MemberId("trial"), "")
"""In a link that stops nothing, to try the way there."""


class UnsubscribeTokens:
    """Url-safe tokens without an end date: the law asks for 60 days, and people find old letters.

    `previous` are keys that signed in the past and are still believed.
    """

    def __init__(self, secret_key: str, previous: Sequence[str] = ()) -> None:
        self._serializer = URLSafeSerializer(
            [*previous, secret_key],
            salt="usher.unsubscribe",
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )
        self._signing_key = self._serializer.make_signer().derive_key()

    def issue(self, claim: UnsubscribeClaim) -> str:
        """Short enough for the line of a header: about 200 characters with Wix's ids. With ids so long that it would
        not be, the group is left out: stopping everything must work."""
        whole = [claim.site, claim.member, claim.address_hash]
        token = self._sign([*whole, claim.group] if claim.group else whole)
        if len(token) > _LONGEST_WITH_GROUP and claim.group:
            return self._sign(whole)
        return token

    def _sign(self, said: list[str]) -> str:
        """What the serializer's `dumps` gives, which derives its key anew each time, and compresses with a buffer so
        large that the system has to find the memory anew."""
        plain = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
        packed = _packed(plain)
        payload = b"." + base64_encode(packed) if len(packed) < len(plain) - 1 else base64_encode(plain)
        signature = base64_encode(hmac.new(self._signing_key, payload, "sha256").digest())
        return f"{PREFIX}{payload.decode()}.{signature.decode()}"

    def read(self, token: str) -> UnsubscribeClaim:
        """Raises InvalidTokenError."""
        if not token.isascii() or len(token) > MAX_TOKEN_CHARACTERS or not token.startswith(PREFIX):
            raise InvalidTokenError("not a token of ours")
        token = token.removeprefix(PREFIX)
        try:
            signature = token.rpartition(".")[2].encode()
            # Base64 leaves spare bits in the last character; only one spelling of a signature is ours.
            if base64_encode(base64_decode(signature)) != signature:
                raise InvalidTokenError("not a token of ours")
            site, member, address_hash, *group = self._serializer.loads(token)
        except (BadData, TypeError, ValueError):
            raise InvalidTokenError("not a token of ours") from None
        if len(group) > 1:
            raise InvalidTokenError("not a token of ours")
        return UnsubscribeClaim(
            SiteId(str(site)),
            MemberId(str(member)),
            str(address_hash),
            GroupId(str(group[0])) if group else None,
        )


def _packed(data: bytes) -> bytes:
    """As zlib.compress."""
    if len(data) > 1000:  # what the smaller window sees back to, and a block of the smaller memory takes
        return zlib.compress(data)
    packer = zlib.compressobj(6, zlib.DEFLATED, -11, 4)
    return b"\x78\x9c" + packer.compress(data) + packer.flush() + zlib.adler32(data).to_bytes(4, "big")


class AddressHashes:
    """The keyed hashes under which the store knows addresses. `previous` are keys that hashed in the past."""

    def __init__(self, secret_key: str, previous: Sequence[str] = ()) -> None:
        self._keys = (secret_key, *previous)

    def of(self, address: str) -> tuple[str, ...]:
        """The one to keep, then those under which it may be known from before; none for no address."""
        return tuple(hash_address(key, address) for key in self._keys) if address else ()

    def domain_of(self, address: str) -> str:
        """Where letters to this address are delivered, to be kept and shown: a large mailbox provider by its domain,
        anybody else's domain, which may name its owner, as a keyed hash."""
        return _kept_domain(self._keys[0], address.rpartition("@")[2].lower())


@functools.lru_cache(maxsize=1024)
def _kept_domain(secret_key: str, domain: str) -> str:
    if domain in _MAILBOX_PROVIDERS:
        return domain
    return f"#{hash_address(secret_key, f'domain@{domain}')[:16]}"


_PROVIDERS = (
    "gmail.com googlemail.com outlook.com hotmail.com live.com msn.com hotmail.co.uk hotmail.fr hotmail.de outlook.de"
    " outlook.fr yahoo.com ymail.com rocketmail.com yahoo.co.uk yahoo.fr yahoo.de yahoo.co.jp yahoo.com.br aol.com"
    " icloud.com me.com mac.com gmx.de gmx.net gmx.com gmx.at gmx.ch web.de t-online.de freenet.de mail.com proton.me"
    " protonmail.com zoho.com yandex.ru yandex.com mail.ru bk.ru list.ru inbox.ru rambler.ru orange.fr wanadoo.fr"
    " free.fr sfr.fr laposte.net libero.it virgilio.it tiscali.it comcast.net verizon.net att.net sbcglobal.net"
    " bellsouth.net cox.net charter.net btinternet.com sky.com virginmedia.com bigpond.com optusnet.com.au qq.com"
    " 163.com 126.com naver.com daum.net walla.co.il uol.com.br bol.com.br terra.com.br seznam.cz wp.pl o2.pl"
)
_MAILBOX_PROVIDERS = frozenset(_PROVIDERS.split())


def hash_address(secret_key: str, address: str) -> str:
    """32 hex characters, the same for every spelling of one address; worthless without the key."""
    local, _, domain = unicodedata.normalize("NFC", address).strip().rpartition("@")
    normal = f"{local}@{_one_spelling(domain)}".lower()
    key = _hashing_key(secret_key)
    return hmac.new(key, normal.encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:32]


@functools.lru_cache(maxsize=8)
def _hashing_key(secret_key: str) -> bytes:
    return hmac.digest(secret_key.encode(), b"usher.address-hash", "sha256")


@functools.lru_cache(maxsize=1024)
def _one_spelling(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:  # an odd domain still has one spelling: its own
        return domain
