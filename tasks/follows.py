"""The rules of a followed group were edited: have a rollout read them, and take them to the other groups.

The job is written before the event is done, under a key made of the event, so an event that is worked off twice makes
one. Our own writes come back as events too; they are of groups that nobody follows, and where two groups follow each
other the second rollout finds its rules there already.
"""

from __future__ import annotations

from core.errors import PermanentError
from core.events import Details, Event
from core.letters import Effects
from tasks.batch import Batch
from tasks.jobs.params import RulesRollout
from tasks.jobs.rollout import FOLLOW, FOLLOWER


def follow_rules(event: Event, details: Details, batch: Batch) -> Effects:
    """One rollout for each `[[follow]]` that names this group, unless one waits that has not read the rules yet.

    However old the event: what is rolled out is what Wix shows when the rollout begins.
    """
    services = batch.services
    follows = [follow for follow in services.automations.follows if follow.is_for(event.site)]
    if not follows:
        return Effects(ignored="no [[follow]] is for this site")
    if batch.is_removed(event.site):
        return Effects(ignored="the app was removed from this site")
    if details.group is None:
        raise PermanentError("the event names no group")
    group = services.wix.get_group(event.site, details.group)
    if group is None:
        return Effects(ignored="Wix does not know the group")
    meant = {f"{FOLLOWER}{follow.name}": follow for follow in follows if follow.names(group)}
    if not meant:
        return Effects(ignored="no [[follow]] names this group")
    running = services.jobs.page(site=event.site, kind="rules_rollout", state="running", limit=None)
    waiting = {job.who for job in running if job.phase == FOLLOW and job.lease is None}
    if waiting >= meant.keys():
        return Effects(ignored="a rollout that waits for its turn will read them")
    # Ids of events are once for a site. Cut where it is too long for its column: the end is the event's.
    key = f"{event.site} {event.id}"[-200:]
    for who, follow in meant.items():
        if who not in waiting:
            params = RulesRollout(from_group=follow.rules_of, to_groups=list(follow.to_groups))
            services.jobs.create(
                event.site,
                "rules_rollout",
                params.model_dump(mode="json"),
                who=who,
                state="running",
                phase=FOLLOW,
                key=key,
            )
    return Effects()
