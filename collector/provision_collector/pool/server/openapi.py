"""The OpenAPI document, made of the routes and models that answer: it cannot say anything else than they do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from provision_agent.contract.version import RUN_ID_PATTERN
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from ...distribution import version
from .api import Endpoint

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["class", "message", "hint"],
            "properties": {
                "class": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": "string"},
                "problems": {"type": "array", "items": {"type": "string"}},
            },
        }
    },
}
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


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """OpenAPI 3.1 of *endpoints*."""
    endpoints = tuple(endpoints)
    taken = {e.body for e in endpoints if e.body is not None}
    given = {e.shape for e in endpoints if e.shape is not None}
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "validation") for model in taken),
        *((model, "serialization") for model in given),
    ]
    _, schemas = models_json_schema(modes, ref_template=_REF)
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    paths["/healthz"] = {
        "get": {
            "operationId": "healthz",
            "summary": "Is the server up?",
            "security": [],
            "responses": {"200": _json("it is")},
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
                **{str(code): _error(text) for code, text in _ALWAYS.items()},
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
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": p.name, "in": p.place, "schema": p.schema, "description": p.text}
        for p in endpoint.parameters
    ]
    if "{run}" in endpoint.path:
        schema = {"type": "string", "pattern": f"^{RUN_ID_PATTERN}$"}
        parameters.insert(0, {"name": "run", "in": "path", "required": True, "schema": schema})
    told = {**endpoint.answers, **_ALWAYS, **(_WITH_BODY if endpoint.body is not None else {})}
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {str(code): _response(endpoint, code, text) for code, text in sorted(told.items())},
    }
    if endpoint.body is not None:
        schema = {"$ref": _REF.format(model=endpoint.body.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _response(endpoint: Endpoint, code: int, text: str) -> dict[str, Any]:
    if code >= 400:
        return _error(text)
    if code == 204:
        return {"description": text}
    if endpoint.media_type == "application/json":
        return _json(text, endpoint.shape)
    schema = _EVENT if endpoint.media_type == "text/event-stream" else {"type": "string"}
    return {"description": text, "content": {endpoint.media_type: {"schema": schema}}}


def _error(text: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
    }


def _json(text: str, shape: type[BaseModel] | None = None) -> dict[str, Any]:
    schema = {"type": "object"} if shape is None else {"$ref": _REF.format(model=shape.__name__)}
    return {"description": text, "content": {"application/json": {"schema": schema}}}
