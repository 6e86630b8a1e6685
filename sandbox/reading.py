"""Reads hand-written JSON strictly: every mistake is named with the place where it stands."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MISSING: Any = object()


class InputError(ValueError):
    """The text names what is wrong and where."""


class Reader:
    """One JSON object. Every member has to be asked for before `end`, else it is unknown."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise InputError(f"{where}: expected an object")
        self._data, self.where, self._asked = data, where, set[str]()

    def value(self, name: str, kind: type | tuple[type, ...], expected: str, default: Any = _MISSING) -> Any:
        self._asked.add(name)
        if name not in self._data:
            if default is _MISSING:
                raise InputError(f"{self.where}: {name} is missing")
            return default
        value = self._data[name]
        wrong_bool = isinstance(value, bool) and kind is not bool
        if wrong_bool or not isinstance(value, kind):
            raise InputError(f"{self.where}: {name} must be {expected}")
        return value

    def text(self, name: str, default: str = _MISSING) -> str:
        return str(self.value(name, str, "a string", default))

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.value(name, bool, "true or false", default))

    def number(self, name: str, default: float, maximum: float) -> float:
        number = self.value(name, (int, float), f"a number from 0 to {maximum:g}", default)
        if not 0 <= number <= maximum:
            raise InputError(f"{self.where}: {name} must be a number from 0 to {maximum:g}")
        return float(number)

    def count(self, name: str, default: int, maximum: int) -> int:
        count = self.value(name, int, f"a whole number from 1 to {maximum}", default)
        if not 1 <= count <= maximum:
            raise InputError(f"{self.where}: {name} must be a whole number from 1 to {maximum}")
        return int(count)

    def choice(self, name: str, choices: Sequence[str], default: str = _MISSING) -> str:
        text = self.text(name, default)
        if text != default and text not in choices:
            raise InputError(f"{self.where}: {name} must be one of {', '.join(choices)}, not {text!r}")
        return text

    def guid(self, name: str) -> str:
        """An id, or empty when there is none."""
        text = self.text(name, "")
        if text and not GUID.fullmatch(text):
            raise InputError(f"{self.where}: {name} must be a GUID, not {text!r}")
        return text

    def moment(self, name: str, default: datetime) -> datetime:
        if not (text := self.text(name, "")):
            return default
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as exc:
            raise InputError(f"{self.where}: {name} must be an ISO 8601 time, not {text!r}") from exc
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def texts(self, name: str) -> list[str]:
        items = self.value(name, list, "a list of strings", [])
        if not all(isinstance(item, str) for item in items):
            raise InputError(f"{self.where}: {name} must be a list of strings")
        return list(items)

    def mapping(self, name: str) -> dict[str, Any]:
        return dict(self.value(name, dict, "an object", {}))

    def rows(self, name: str) -> list["Reader"]:
        items = self.value(name, list, "a list of objects", [])
        return [Reader(item, f"{self.where}.{name}[{i}]") for i, item in enumerate(items)]

    def has(self, name: str) -> bool:
        return name in self._data

    def end(self) -> None:
        if unknown := sorted(set(self._data) - self._asked):
            raise InputError(
                f"{self.where}: unknown {', '.join(unknown)}; known here: {', '.join(sorted(self._asked))}"
            )


def answers_of(reader: Reader) -> dict[str, str]:
    """Answers by question id or text."""
    answers = reader.mapping("answers")
    if not all(isinstance(answer, str) for answer in answers.values()):
        raise InputError(f"{reader.where}: answers must be strings by question")
    return answers
