"""The OpenAPI document, made of the routes and of the dataclasses that they take and answer with: it cannot say anything else than they do."""

from __future__ import annotations

from collections.abc import Iterable

from provision_agent.contract.events import JsonObject
from provision_agent.contract.version import RUN_ID_PATTERN
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from ...distribution import version
from .answers import adapter_of
from .endpoints import Endpoint
from .schemas import Error, Health

_REF = "#/components/schemas/{model}"
_EVENT = {
    "type": "object",
    "description": "one of the stream's events",
    "properties": {
        "id": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_ALWAYS = {
    400: "malformed",
    401: "no token, or a wrong one",
    403: "a foreign origin",
    421: "not this server's name",
}
_WITH_BODY = {408: "the body did not arrive", 413: "too large", 415: "no JSON"}


def document(endpoints: Iterable[Endpoint]) -> JsonObject:
    """OpenAPI 3.1 of *endpoints*."""
    endpoints = tuple(endpoints)
    paths: dict[str, dict[str, JsonObject]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path.replace(":path}", "}"), {})[endpoint.method.lower()] = _operation(
            endpoint
        )
    paths["/healthz"] = {
        "get": {
            "operationId": "healthz",
            "summary": "Is the server up?",
            "security": [],
            "responses": {"200": _json("it is", Health)},
        }
    }
    paths["/metrics"] = {
        "get": {
            "operationId": "metrics",
            "summary": "Numbers for Prometheus",
            "responses": {
                "200": {
                    "description": "text format",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                },
                **{str(code): _json(text, Error) for code, text in _ALWAYS.items()},
            },
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "provision", "version": version()},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(endpoints),
        },
    }


def _schemas(endpoints: Iterable[Endpoint]) -> object:
    """The dataclasses that the routes take and answer with, by name."""
    taken = {e.body for e in endpoints if e.body is not None}
    given = {e.answer for e in endpoints if e.answer is not None} | {Error, Health}
    inputs: list[tuple[type, JsonSchemaMode, TypeAdapter[object]]] = [
        *((kind, "validation", adapter_of(kind)) for kind in taken),
        *((kind, "serialization", adapter_of(kind)) for kind in given),
    ]
    _, schemas = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    return schemas["$defs"]


def _operation(endpoint: Endpoint) -> JsonObject:
    parameters: list[JsonObject] = [
        {"name": p.name, "in": p.place, "schema": p.schema, "description": p.text}
        for p in endpoint.parameters
    ]
    if "{run}" in endpoint.path:
        schema = {"type": "string", "pattern": f"^{RUN_ID_PATTERN}$"}
        parameters.insert(0, {"name": "run", "in": "path", "required": True, "schema": schema})
    if ":path}" in endpoint.path:
        parameters.insert(1, {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}})
    told = {**endpoint.answers, **_ALWAYS, **(_WITH_BODY if endpoint.body is not None else {})}
    operation: dict[str, object] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {str(code): _response(endpoint, code, text) for code, text in sorted(told.items())},
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.body)}
    return operation


def _response(endpoint: Endpoint, code: int, text: str) -> JsonObject:
    if code >= 400:
        return _json(text, Error)
    if code == 204:
        return {"description": text}
    if endpoint.answer is not None:
        return _json(text, endpoint.answer)
    schema = _EVENT if endpoint.media_type == "text/event-stream" else {"type": "string"}
    return {"description": text, "content": {endpoint.media_type: {"schema": schema}}}


def _json(text: str, kind: type) -> JsonObject:
    return {"description": text, "content": _content(kind)}


def _content(kind: type) -> JsonObject:
    return {"application/json": {"schema": {"$ref": _REF.format(model=kind.__name__)}}}
