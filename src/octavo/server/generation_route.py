"""Routes whose calls are answered by generations: each protocol says what differs, and the way is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.server.body import Preparable, body_schema
from octavo.server.call import Call
from octavo.server.context import Server
from octavo.server.field_names import FieldNames
from octavo.server.generation import Generation
from octavo.server.writing import GenerationWriter

B = TypeVar("B")

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, or with `stream` its chunks", "content": {"text/event-stream": {}}}
}
"""What /openapi.json adds to a route that may stream."""


def _takes_any(_request: Request) -> None:
    """Checks nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRoute(Generic[B]):
    """One route, from the HTTP request to the writer of its answer."""

    path: str
    name: str
    """Of the operation in /openapi.json."""
    summary: str
    body: type[Preparable[Call[B]]]
    writer: Callable[[Server, Call[B], Generation, str], GenerationWriter]
    """Makes what writes the answer to a call; the last argument is the request's id."""
    names: FieldNames = FieldNames()
    """Of fields, in the errors of what is asked of the engine."""
    check: Callable[[Request], None] = _takes_any
    """Raises RequestError for headers that cannot be served."""

    def add_to(self, router: APIRouter, server: Server) -> None:
        """Serve it on `router`."""

        async def endpoint(request: Request) -> Response:
            return await self.answer(server, request)

        router.add_api_route(
            self.path,
            endpoint,
            methods=["POST"],
            name=self.name,
            summary=self.summary,
            openapi_extra=body_schema(self.body),
            responses=STREAMED,
        )

    async def answer(self, server: Server, request: Request) -> Response:
        """The answer, or the beginning of a stream.

        Raises:
            OctavoError: the request cannot be served, or failed.
            ClientGone: nobody waits for the answer.
        """
        server.check_accepting()
        self.check(request)
        call = await server.read(request, self.body)
        request_id = request.state.request_id
        with self.names.renaming():
            generation = Generation(server, call, request_id)
            server.log_request(request_id, call)
            return await self.writer(server, call, generation, request_id).answer(request)
