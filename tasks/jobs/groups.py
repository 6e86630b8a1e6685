"""Which groups a job means: by id, by name, or by a pattern of names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from core.automations import group_fits
from core.community import Group, GroupId, SiteId, is_plain
from core.errors import ForbiddenError, PermanentError
from core.ports import WixPort
from tasks.jobs.engine import JobError
from tasks.services import Services


def find_group(named: str, site: SiteId, wix: WixPort, groups: Sequence[Group] | None = None) -> Group:
    """By its id, or by a name that only one group of the site has. `groups`: the whole list, where somebody has read
    it. Raises JobError."""
    if _may_be_an_id(named):
        try:
            if (group := wix.get_group(site, GroupId(named))) is not None:
                return group
        except ForbiddenError:
            raise
        except PermanentError:  # an id that Wix finds malformed may be a name
            pass
    groups = list(wix.list_groups(site)) if groups is None else groups
    found = [group for group in groups if group.name.casefold() == named.strip().casefold()]
    if not found:
        names = [group.name for group in groups]
        raise JobError(f'no group has the id or the name "{named}"{_did_you_mean(named, names)}')
    if len(found) > 1:
        ids = ", ".join(group.id for group in found[:5])
        raise JobError(f'{len(found)} groups have the name "{named}": give the id ({ids})')
    return found[0]


def choose_groups(
    patterns: Sequence[str],
    site: SiteId,
    wix: WixPort,
    services: Services,
    groups: Sequence[Group] | None = None,
) -> list[Group]:
    """All groups that one of these fits, in Wix's order, without those that were deleted though Wix still lists them.
    `groups`: the whole list, where somebody has read it. Raises JobError for a pattern that fits none."""
    groups = list(wix.list_groups(site)) if groups is None else groups
    deleted = services.group_days.note(site, groups)
    groups = [group for group in groups if group.id not in deleted]
    for pattern in patterns:
        if not any(group_fits(pattern, group) for group in groups):
            names = [group.name for group in groups]
            raise JobError(f'no group has the id or a name like "{pattern}"{_did_you_mean(pattern, names)}')
    return [group for group in groups if any(group_fits(pattern, group) for pattern in patterns)]


def _did_you_mean(named: str, names: Sequence[str]) -> str:
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(named.casefold(), folded, n=1)
    return f': did you mean "{folded[near[0]]}"?' if near else ""


def _may_be_an_id(named: str) -> bool:
    return is_plain(named, 64) and len(named) >= 8
