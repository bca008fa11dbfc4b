"""The layers that settings come from, the later ones stronger: environment variables, a YAML file, the command line."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from octavo.config.values import kinds
from octavo.config.vllm_flags import ALIASES, VLLM_FLAGS
from octavo.config.vllm_variables import from_vllm, is_of_kubernetes
from octavo.errors import ConfigError

ENV_PREFIX = "OCTAVO_"
CLOSE = 0.8
"""How alike names must be for a hint, as difflib counts: a wrong hint leads further astray than none."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One place that settings are written in; `label` says how its user writes a name."""

    values: Mapping[str, Any]
    label: Callable[[str], str]

    @classmethod
    def of_vllm(cls, environ: Mapping[str, str]) -> Layer:
        """Holds what vLLM's variables in `environ` set."""
        honoured = from_vllm(environ)
        return cls({name: said.value for name, said in honoured.items()}, lambda name: honoured[name].variable)

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Layer:
        """Holds what Octavo's variables in `environ` set."""
        values = {name.removeprefix(ENV_PREFIX): raw for name, raw in environ.items() if name.startswith(ENV_PREFIX)}
        ours = {name.lower(): raw for name, raw in values.items() if not is_of_kubernetes(name, raw)}
        return cls(ours, lambda name: ENV_PREFIX + name.upper())

    @classmethod
    def of_yaml(cls, path: Path) -> Layer:
        """Holds what a YAML file sets.

        Raises:
            ConfigError: it cannot be read, or does not map names to values.
        """
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ConfigError("--config", f"cannot read {path}: {exc.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as exc:
            raise ConfigError("--config", f"{path} is not YAML: {exc}") from None
        if not isinstance(raw, dict | None):
            raise ConfigError("--config", f"{path} must map setting names to values")
        values = {str(name): value for name, value in (raw or {}).items()}
        return cls(values, lambda name: f"{name.replace('_', '-')} in {path}")


def flag_name(name: str) -> str:
    """`max_num_seqs` as it is written on the command line: `--max-num-seqs`."""
    return "--" + name.replace("_", "-")


def nearest(name: str, labels: Mapping[str, str]) -> str:
    """A hint such as `; did you mean --max-num-seqs?`, or nothing if no name is near; `labels`: name to how it is
    written."""
    close = difflib.get_close_matches(name, labels, n=1, cutoff=CLOSE)
    return f"; did you mean {labels[close[0]]}?" if close else ""


def read_layers(layers: Iterable[Layer], settings: type) -> tuple[dict[str, Any], dict[str, str]]:
    """Read every value with the kind of its field in the dataclass `settings`: values by name, and how each name was written.

    Raises:
        ConfigError: an unknown name (says the nearest), or a value that is not of the kind.
    """
    known = kinds(settings)
    with_choices = {field.name for field in dataclasses.fields(settings) if "choices" in field.metadata}
    values: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for layer in layers:
        for raw_name, raw in layer.values.items():
            name, label = ALIASES.get(raw_name, raw_name).replace("-", "_"), layer.label(raw_name)
            vllm_flag = VLLM_FLAGS.get(ALIASES.get(raw_name, name.replace("_", "-")))
            if name in with_choices and raw in (None, ""):
                continue  # vLLM's way not to choose
            if name in known:
                try:
                    values[name] = known[name].read(raw)
                except ValueError as exc:
                    raise ConfigError(label, str(exc)) from None
                labels[name] = label
                if name in with_choices:
                    values[name] = values[name].lower()
            elif vllm_flag is not None:
                vllm_flag.take(raw)
            else:
                names = [*known, *(flag.replace("-", "_") for flag in VLLM_FLAGS)]
                raise ConfigError(label, "unknown setting" + nearest(name, {one: layer.label(one) for one in names}))
    return values, labels
