"""Ids and paths of the built-in community, and a clock for it."""

from dataclasses import dataclass
from datetime import UTC, datetime

YOGA = "5d0c3f0a-8f0e-4e0a-9b53-1f7a3a1e2c41"  # PUBLIC
RUNNERS = "9e2b7c64-1c5d-4f7a-a1c8-7d4b0e6f3a52"  # PRIVATE
ADA = "11e6d5a2-3b7c-4d8e-9f01-a2b3c4d5e6f1"
BEN = "22f7e6b3-4c8d-4e9f-8a12-b3c4d5e6f7a2"
CHLOE = "3308f7c4-5d9e-4fa0-9b23-c4d5e6f7a8b3"
DMITRI = "441908d5-6eaf-40b1-8c34-d5e6f7a8b9c4"
NOBODY = "00000000-0000-4000-8000-000000000000"
GROUPS_URL = "/social-groups-proxy/groups/v2/groups"
MEMBERS_URL = "/social-groups-proxy/members/v2/groups"
JOIN_URL = "/social-groups-proxy/join/v2/groups"


@dataclass
class Clock:
    seconds: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds

    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)
