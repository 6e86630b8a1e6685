"""The signed `instance` with which Wix's dashboard opens an app's page in a frame. Pure.

`<signature>.<data>`, both in URL-safe base64 without padding: `data` is a JSON object, `signature` its HMAC-SHA256 by
the app's secret, over the text of `data` as it came (dev.wix.com, "Parse the encoded app instance data").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from core.community import LONGEST_ID, SiteId, is_plain
from core.errors import AppError

LONGEST = 4096
OLDEST = timedelta(minutes=10)
"""Wix names no limit, and signs anew whenever the dashboard loads the page."""
AHEAD = timedelta(minutes=2)
LONGEST_UID = 190  # with a word before it, it stands in the audit log


class InstanceError(AppError):
    """Not to be let in; the text says why. Of what was not signed by Wix it says no more than that."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """A Wix user, owner of the site, who looks at its dashboard."""

    site: SiteId
    uid: str


def read_instance(text: str, secret: str, now: datetime) -> Viewer:
    """Raises InstanceError.

    Wix documents `instanceId`, `signDate`, `uid` and `aid`. Of `permissions` only the value OWNER has been seen, and
    there is no list: anything else, and nothing, is a no.
    """
    data = _open(text, secret)
    if "aid" in data:
        raise InstanceError("Wix does not know who is looking. Log in to Wix, and open the dashboard again.")
    site, uid, signed = data.get("instanceId"), data.get("uid"), data.get("signDate")
    if not is_plain(site, LONGEST_ID):
        raise InstanceError("Wix signed this, but it names no site.")
    if not is_plain(uid, LONGEST_UID):
        raise InstanceError("Wix signed this, but it names nobody who is looking.")
    try:
        age = now - datetime.fromisoformat(signed if isinstance(signed, str) else "")
    except (ValueError, TypeError, OverflowError):
        raise InstanceError("Wix signed this, but it does not say when.") from None
    if age > OLDEST:
        raise InstanceError("This page was opened too long ago. Load the dashboard of Wix again.")
    if age < -AHEAD:
        raise InstanceError(
            "Wix signed this at a time that is still to come: the clock of this server is wrong."
        )
    if data.get("permissions") != "OWNER":
        raise InstanceError(
            "Wix does not say that you own this site, and only owners come in from its dashboard."
        )
    return Viewer(SiteId(site), uid)


def _open(text: str, secret: str) -> dict[str, Any]:
    forged = InstanceError("This was not signed by Wix for this app.")
    if (
        not secret
        or len(text) > LONGEST
        or not (parts := re.fullmatch(r"([\w-]+)\.([\w-]+)", text, re.ASCII))
    ):
        raise forged
    given, encoded = parts.groups()
    right = hmac.digest(secret.encode(), encoded.encode(), hashlib.sha256)
    if not hmac.compare_digest(_decoded(given), right):
        raise forged
    try:
        data = json.loads(_decoded(encoded), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise InstanceError("Wix signed this, but it cannot be read.")
    return data


def _decoded(text: str) -> bytes:
    """b"" for what is no base64."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found
