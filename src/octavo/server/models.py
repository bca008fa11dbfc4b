"""GET /v1/models and by id."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from octavo.server.context import Server
from octavo.server.json_pieces import json


def model_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/v1/models", summary="The model, under each of its names")
    async def models() -> Response:
        return json({"object": "list", "data": [_card(server, name) for name in server.model_names]})

    @router.get("/v1/models/{model_id:path}", summary="One model")
    async def model(model_id: str) -> Response:
        return json(_card(server, server.reader.check_model(model_id)))

    return router


def _card(server: Server, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": server.started_s,
        "owned_by": "octavo",
        "root": server.model_names[0],
        "parent": None,
        "max_model_len": server.most_tokens,
        "permission": [_PERMISSION | {"id": f"modelperm-{name}", "created": server.started_s}],
    }


_PERMISSION: dict[str, Any] = {
    "object": "model_permission",
    "allow_create_engine": False,
    "allow_sampling": True,
    "allow_logprobs": True,
    "allow_search_indices": False,
    "allow_view": True,
    "allow_fine_tuning": False,
    "organization": "*",
    "group": None,
    "is_blocking": False,
}
