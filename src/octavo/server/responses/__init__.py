"""OpenAI's responses, without a store: their items and events over the same core as chat."""

from octavo.server.responses.request import ResponseRequest
from octavo.server.responses.routes import response_routes

__all__ = ["ResponseRequest", "response_routes"]
