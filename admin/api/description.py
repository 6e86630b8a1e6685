"""The OpenAPI 3.1 document, made of the table of operations, in the dialect that pydantic writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter

from admin.api.operations import Operation
from admin.api.shapes import Id, Problem

PATH = "/v1/openapi.json"
_REFERENCES = "#/components/schemas/{model}"
_PROBLEM = TypeAdapter(Problem)
_ALWAYS = (401, 403, 422, 429, 503)
_HEADERS = {401: "WWW-Authenticate", 429: "Retry-After"}


def describe_api(operations: Sequence[Operation]) -> dict[str, Any]:
    adapters = {id(_PROBLEM): _PROBLEM}
    for operation in operations:
        for adapter in (operation.body, operation.answers):
            if adapter is not None:
                adapters[id(adapter)] = adapter
    by_id, found = TypeAdapter.json_schemas(
        [(key, "validation", adapter) for key, adapter in adapters.items()], ref_template=_REFERENCES
    )
    schemas = {key: schema for (key, _), schema in by_id.items()}
    paths: dict[str, dict[str, Any]] = {
        PATH: {
            "get": {
                "summary": "This document",
                "operationId": "openapi",
                "security": [],
                "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {}}}}},
            }
        }
    }
    for operation in operations:
        path = re.sub(r":\w+}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _describe(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Usher's admin API", "version": "1"},
        "servers": [{"url": "/api"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": found.get("$defs", {}),
        },
    }


def _describe(operation: Operation, schemas: dict[int, Any]) -> dict[str, Any]:
    statuses = {*_ALWAYS, *operation.also}
    if "{id" in operation.path:
        statuses.add(404)
    found: dict[str, Any] = {
        "operationId": operation.act.__name__,
        "summary": operation.summary,
        "description": f"For tokens of the roles: {', '.join(sorted(operation.roles))}.",
        "parameters": list(_parameters(operation)),
    }
    if operation.body is not None:
        statuses |= {400, 408, 413, 415}
        body = {"application/json": {"schema": schemas[id(operation.body)]}}
        found["requestBody"] = {"required": True, "content": body}
    content = {"schema": {} if operation.answers is None else schemas[id(operation.answers)]}
    responses: dict[int, dict[str, Any]] = {
        operation.status: {"content": dict.fromkeys(operation.media_types, content)}
    }
    if operation.status == 202:
        responses[202]["headers"] = {"Location": {"required": True, "schema": {"type": "string"}}}
    for status in sorted(statuses):
        responses[status] = {"content": {"application/problem+json": {"schema": schemas[id(_PROBLEM)]}}}
        if name := _HEADERS.get(status):
            responses[status]["headers"] = {name: {"required": True, "schema": {"type": "string"}}}
    found["responses"] = {
        str(status): {"description": HTTPStatus(status).phrase, **response}
        for status, response in responses.items()
    }
    return found


def _parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    if "{id" in operation.path:
        yield {"name": "id", "in": "path", "required": True, "schema": TypeAdapter(Id).json_schema()}
    if operation.needs_key:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": True,
            "schema": TypeAdapter(Id).json_schema(),
        }
    query = operation.query.model_json_schema()
    for name, schema in query.get("properties", {}).items():
        yield {"name": name, "in": "query", "required": name in query.get("required", ()), "schema": schema}
