"""Make the reports of the automations file when their hour has come: one job for each connected site and period.

Any number of these loops may run: the same period of the same report is the same job.
"""

from __future__ import annotations

import logging
import threading
from datetime import date

from core.community import SiteId
from core.errors import JournalUnavailableError
from core.reports import due_on
from tasks.services import Services

log = logging.getLogger(__name__)

EVERY_S = 20.0


class Schedule:
    """Remembers what it has made, so that the database is asked about it once."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._made: set[tuple[str, date, SiteId]] = set()

    def look(self) -> int:
        """How many jobs were made that were not there. Raises JournalUnavailableError."""
        services, now, new = self._services.for_one_piece(), self._services.now(), 0
        if not services.automations.reports:
            return 0
        due: set[tuple[str, date, SiteId]] = set()
        for site in services.sites.active():
            time_zone = services.automations.policy_of(site).time_zone
            for report in services.automations.reports:
                day = due_on(report, time_zone, now) if report.is_for(site) else None
                if day is None:
                    continue
                due.add((report.name, day, site))
                if (report.name, day, site) in self._made:
                    continue
                row, is_new = services.jobs.create(
                    site,
                    "groups_report",
                    {"top": report.top, "idle_days": report.idle_days, "mail_to": list(report.to)},
                    who=f"schedule {report.name}",
                    state="running",
                    key=f"{day.isoformat()} {site[-180:]}",
                )
                self._made.add((report.name, day, site))
                if is_new:
                    new += 1
                    log.info("schedule.report", extra={"job": row.id, "site": site, "report": report.name})
        self._made &= due
        return new

    def look_until(self, stop: threading.Event) -> None:
        """Look again and again until `stop` is set; a database that is away is waited for."""
        while not stop.is_set():
            try:
                self.look()
            except JournalUnavailableError as exc:
                log.warning("schedule.database_away", extra={"error": str(exc)})
            except Exception:
                log.exception("schedule.failed")
            stop.wait(EVERY_S)
