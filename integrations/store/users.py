"""People who log in to the console, and their sessions."""

from __future__ import annotations

from integrations.store.database import Database


class Users:
    def __init__(self, database: Database) -> None:
        self._database = database
