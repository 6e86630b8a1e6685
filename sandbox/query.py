"""Wix's query language: filters, sorting and paging over Python objects. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from sandbox.community import InvalidError

TEXT = frozenset({"$eq", "$ne", "$in", "$nin", "$exists", "$hasSome", "$startsWith"})
ORDERED = TEXT | {"$gt", "$gte", "$lt", "$lte"}
ENUM = frozenset({"$eq", "$ne", "$in", "$exists", "$hasSome"})
GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

T = TypeVar("T")
Test = Callable[[Any], bool]
Getter = Callable[[Any], Any]  # a value, or a tuple of values of which any may match


@dataclass(frozen=True)
class Fields:
    """What one endpoint can filter and sort by."""

    filters: Mapping[str, tuple[Getter, frozenset[str]]]
    sorts: Mapping[str, Getter] = field(default_factory=dict)


def compile_filter(condition: Any, fields: Fields, *, ignore_unsupported: bool) -> Test:
    """One test for a whole filter; `InvalidError` for what cannot be asked of these fields."""
    if not isinstance(condition, dict):
        raise InvalidError("filter", "must be an object", code="MALFORMED_FILTER")
    tests: list[Test] = []
    for name, value in condition.items():
        if name in {"$and", "$or"}:
            if not isinstance(value, list):
                raise InvalidError(f"filter.{name}", "must be an array", code="MALFORMED_FILTER")
            parts = [compile_filter(v, fields, ignore_unsupported=ignore_unsupported) for v in value]
            tests.append(_all(parts) if name == "$and" else _any(parts))
        elif name == "$not":
            tests.append(_not(compile_filter(value, fields, ignore_unsupported=ignore_unsupported)))
        elif name not in fields.filters:
            if not ignore_unsupported:
                raise InvalidError(
                    f"filter.{name}", "field is not filterable", code="UNSUPPORTED_FILTER_FIELD_UNKNOWN"
                )
        else:
            get, operators = fields.filters[name]
            asked = value if isinstance(value, dict) else {"$eq": value}
            for operator, operand in asked.items():
                if operator in operators:
                    tests.append(_compare(get, operator, operand, f"filter.{name}"))
                elif not ignore_unsupported:
                    raise InvalidError(
                        f"filter.{name}",
                        f"operator {operator} is not supported",
                        code="UNSUPPORTED_FILTER_OPERATOR",
                    )
    return _all(tests)


def sort_by(items: Iterable[Any], sorting: Any, fields: Fields, *, ignore_unsupported: bool) -> list[Any]:
    """Sorted by `[{fieldName, order}]`; ties and an empty list keep the order given."""
    if not isinstance(sorting, list) or not all(isinstance(part, dict) for part in sorting):
        raise InvalidError("sort", "must be an array of objects", code="UNSUPPORTED_SORT_FIELD")
    result = list(items)
    for part in reversed(sorting):
        name, order = part.get("fieldName"), part.get("order", "ASC")
        if order not in {"ASC", "DESC"}:
            raise InvalidError("sort.order", "must be ASC or DESC", code="UNSUPPORTED_SORT_FIELD")
        if name in fields.sorts:
            result.sort(key=_sort_key(fields.sorts[name]), reverse=order == "DESC")
        elif not ignore_unsupported:
            raise InvalidError("sort.fieldName", f"{name!r} is not sortable", code="UNSUPPORTED_SORT_FIELD")
    return result


def page_of(paging: Any, *, default: int, maximum: int) -> tuple[int, int]:
    """(limit, offset) of `{limit, offset}`, checked."""
    if not isinstance(paging, Mapping):
        raise InvalidError("paging", "must be an object", code="ILLEGAL_LIMIT")
    limit, offset = (
        _whole_number(f"paging.{name}", paging.get(name), value)
        for name, value in (("limit", default), ("offset", 0))
    )
    if limit > maximum:
        raise InvalidError(
            "paging.limit",
            f"must not exceed {maximum}",
            rule="MAX",
            data={"threshold": maximum},
            code="ILLEGAL_LIMIT",
        )
    return limit, offset


def narrowed(by_key: Mapping[str, T], condition: Any, *, lower: bool = False) -> Iterable[T]:
    """The candidates for a condition on the key itself: a look-up instead of a walk over everybody."""
    keys = [condition] if isinstance(condition, str) else None
    if isinstance(condition, dict):
        keys = condition.get("$in", [condition["$eq"]] if "$eq" in condition else None)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        return by_key.values()
    wanted = dict.fromkeys(key.lower() if lower else key for key in keys)
    return [by_key[key] for key in wanted if key in by_key]


def _whole_number(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidError(name, "must be a whole number, 0 or more", code="ILLEGAL_LIMIT")
    return value


def _compare(get: Getter, operator: str, operand: Any, where: str) -> Test:
    if operator in {"$in", "$nin", "$hasSome", "$hasAll"} and not isinstance(operand, list):
        raise InvalidError(where, f"{operator} needs an array", code="UNSUPPORTED_FILTER_VALUE_TYPE")
    if operator in {"$startsWith", "$contains"}:
        if not isinstance(operand, str):
            raise InvalidError(where, f"{operator} needs a string", code="UNSUPPORTED_FILTER_VALUE_TYPE")
        operand = operand.casefold()
    if operator in {"$in", "$hasSome"} and all(isinstance(value, str) for value in operand):
        return _one_of(get, frozenset(operand))

    def test(item: Any) -> bool:
        got = get(item)
        values: Sequence[Any] = got if isinstance(got, tuple) else () if got is None else (got,)
        match operator:
            case "$eq":
                return operand in values if operand is not None else not values
            case "$ne":
                return operand not in values
            case "$in" | "$hasSome":  # with something else than strings among them
                return any(value in operand for value in values)
            case "$nin":
                return not any(value in operand for value in values)
            case "$hasAll":
                return all(wanted in values for wanted in operand)
            case "$exists":
                return bool(values) == bool(operand)
            case "$startsWith":
                return any(str(value).casefold().startswith(operand) for value in values)
            case "$contains":
                return any(operand in str(value).casefold() for value in values)
        return any(_in_order(operator, value, operand, where) for value in values)

    return test


def _one_of(get: Getter, wanted: frozenset[str]) -> Test:
    """By far the most asked, of everybody there is: a look-up for each."""

    def test(item: Any) -> bool:
        got = get(item)
        return not wanted.isdisjoint(got) if isinstance(got, tuple) else got in wanted

    return test


def _in_order(operator: str, value: Any, operand: Any, where: str) -> bool:
    try:
        other = datetime.fromisoformat(operand) if isinstance(value, datetime) else operand
        match operator:
            case "$gt":
                return bool(value > other)
            case "$gte":
                return bool(value >= other)
            case "$lt":
                return bool(value < other)
        return bool(value <= other)
    except (TypeError, ValueError) as exc:
        raise InvalidError(where, "cannot be compared", code="UNSUPPORTED_FILTER_VALUE_TYPE") from exc


def _sort_key(get: Getter) -> Callable[[Any], Any]:
    def key(item: Any) -> Any:
        value = get(item)
        return value.casefold() if isinstance(value, str) else value

    return key


def _all(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def test(item: Any) -> bool:
        for part in tests:  # noqa: SIM110 (half the time of all() over a generator, and asked of everybody)
            if not part(item):
                return False
        return True

    return test


def _any(tests: Sequence[Test]) -> Test:
    return lambda item: any(test(item) for test in tests)


def _not(test: Test) -> Test:
    return lambda item: not test(item)
