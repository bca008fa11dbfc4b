"""vLLM's environment variables: each is honoured, explained or refused, and none is passed over."""

from __future__ import annotations

import logging

import pytest

from octavo.config.settings import Settings
from octavo.config.vllm_names import Explained, Refused, VllmName
from octavo.config.vllm_variables import VARIABLES, Honoured
from octavo.errors import ConfigError


def settings(environ: dict[str, str], **flags: object) -> Settings:
    return Settings.from_sources(flags, environ=environ)


def test_the_key_is_asked_for() -> None:
    assert settings({"VLLM_API_KEY": "x"}).api_key == ("x",)
    assert settings({"VLLM_API_KEY": "a,b"}).api_key == ("a,b",)
    assert settings({"VLLM_API_KEY": "[a]"}).api_key == ("[a]",)
    assert settings({"VLLM_API_KEY": "none"}).api_key == ("none",)
    assert settings({"VLLM_API_KEY": "tcp://a"}).api_key == ("tcp://a",)
    assert settings({"VLLM_API_KEY": ""}).api_key == ()


def test_own_names_and_flags_win() -> None:
    environ = {"VLLM_API_KEY": "vllm", "OCTAVO_API_KEY": "own"}
    assert settings(environ).api_key == ("own",)
    assert settings(environ, api_key=["flag"]).api_key == ("flag",)


@pytest.mark.parametrize(
    ("name", "raw", "setting", "value"),
    [
        ("VLLM_LOGGING_LEVEL", "DEBUG", "logging_level", "debug"),
        ("VLLM_LOGGING_LEVEL", "CRITICAL", "logging_level", "critical"),
        ("VLLM_LOG_STATS_INTERVAL", "5.", "log_stats_interval", 5.0),
        ("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5", "http_timeout_keep_alive", 5),
        ("VLLM_ENGINE_READY_TIMEOUT_S", "600", "worker_start_timeout", 600.0),
        ("VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", "300", "worker_step_timeout", 300.0),
    ],
)
def test_what_means_the_same_is_honoured(name: str, raw: str, setting: str, value: object) -> None:
    assert getattr(settings({name: raw}), setting) == value


def test_a_wrong_value_is_refused_by_the_variables_name() -> None:
    with pytest.raises(ConfigError) as error:
        settings({"VLLM_LOGGING_LEVEL": "loud"})
    assert error.value.setting == "VLLM_LOGGING_LEVEL"


@pytest.mark.parametrize("name", VARIABLES)
def test_every_known_variable_is_answered(name: str, caplog: pytest.LogCaptureFixture) -> None:
    match VARIABLES[name]:
        case Honoured(setting):
            assert hasattr(Settings(), setting)
        case Explained():
            assert settings({name: "sesame"}) == Settings()
            (line,) = [record.getMessage() for record in caplog.records]
            assert line.startswith(f"{name} has no effect")
            assert "sesame" not in line
        case Refused():
            with pytest.raises(ConfigError) as error:
                settings({name: "sesame"})
            assert error.value.setting == name


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, known in VARIABLES.items() if isinstance(known, VllmName) for value in known.same],
)
def test_what_is_so_anyway_is_silent(name: str, value: str, caplog: pytest.LogCaptureFixture) -> None:
    assert settings({name: value}) == Settings()
    assert not caplog.records


def test_unknown_ones_are_named_in_one_line_without_their_values(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings({"VLLM_XYZZY": "sesame", "VLLM_FOO": "1", "VLLMISH": "1"})
    (line,) = [record.getMessage() for record in caplog.records]
    assert "VLLM_FOO, VLLM_XYZZY" in line
    assert "sesame" not in line


def test_variables_of_a_kubernetes_service_named_vllm_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    environ = {
        "VLLM_PORT": "tcp://10.0.0.1:8000",
        "VLLM_SERVICE_HOST": "10.0.0.1",
        "VLLM_SERVICE_PORT_HTTP": "8000",
        "VLLM_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "VLLM_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert settings(environ) == Settings()
    assert not caplog.records
