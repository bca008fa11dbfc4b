"""schemathesis over /openapi.json: whatever it sends, no answer is a 5xx and every answer is described."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from octavo.server.app import create_app
from server.harness import Running, mock_context

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SCHEMA = schemathesis.openapi.from_dict(create_app(mock_context()[0]).openapi())
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)}
RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CASES = [
    (label, mode)
    for label, operation in OPERATIONS.items()
    for mode in (RIGHT, WRONG)
    if mode is RIGHT or operation.body
]


def test_it_sees_the_whole_server(shared: Running) -> None:
    assert len(OPERATIONS) >= 18
    assert shared.http.get("/openapi.json").json() == create_app(mock_context()[0]).openapi()


@pytest.mark.parametrize(("label", "mode"), CASES, ids=[f"{label} {mode.value}" for label, mode in CASES])
def test_no_answer_is_a_server_error(server: Running, label: str, mode: GenerationMode) -> None:
    @given(OPERATIONS[label].as_strategy(generation_mode=mode))
    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def attack(case: schemathesis.Case[Any]) -> None:
        answer = case.call(base_url=server.url, timeout=30)
        case.validate_response(answer, checks=CHECKS)

    attack()
