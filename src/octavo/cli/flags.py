"""Command-line flags made from the fields of `Settings`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from octavo.cli.dotted import joined
from octavo.config.layers import flag_name
from octavo.config.settings import Settings
from octavo.config.values import kinds
from octavo.config.vllm_flags import ALIASES, VLLM_FLAGS, Shape
from octavo.errors import ConfigError

_VLLM_NARGS: dict[Shape, Any] = {Shape.VALUE: None, Shape.LIST: "*"}


def add_settings(parser: argparse.ArgumentParser, groups: Sequence[str]) -> None:
    """Give `parser` the model as its first word, `--config`, and the flags of the setting `groups`."""
    parser.add_argument("model_word", nargs="?", metavar="MODEL", help="the same as --model")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; flags win over it")
    for name in groups:
        group = parser.add_argument_group(name)
        for field in dataclasses.fields(Settings):
            if field.metadata["group"] == name:
                _add_field(group, field)
    _add_vllm_flags(parser)


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings that flags, `--config` and the environment give together.

    Raises:
        ConfigError: see `Settings.from_sources`; or MODEL and --model differ.
    """
    names = {field.name for field in dataclasses.fields(Settings)} | set(args.vllm_flags)
    flags = {name: value for name, value in vars(args).items() if name in names}
    if args.model_word is not None and flags.setdefault("model", args.model_word) != args.model_word:
        raise ConfigError("--model", f"is {flags['model']!r} but the first word says {args.model_word!r}; give one")
    return Settings.from_sources({**flags, **args.vllm_flags}, config=args.config, environ=os.environ)


def normalized(argv: Sequence[str]) -> list[str]:
    """`argv` with `--max_num_seqs` written `--max-num-seqs`, vLLM's `-tp`, `-O3` ... in their long form, and
    `--flag.key value` as JSON.

    Raises:
        ConfigError: see `joined`.
    """
    return joined([_normalized(word) for word in argv])


def _normalized(word: str) -> str:
    name, equals, value = word.partition("=")
    flag, dot, key = name.partition(".")
    if flag.startswith("--"):
        return flag.replace("_", "-") + dot + key + equals + value
    if word[:2] == "-O" and word[2:].isdigit():
        return f"--optimization-level={word[2:]}"
    if flag[:1] == "-" and flag[1:] in ALIASES:
        return f"--{ALIASES[flag[1:]]}{dot}{key}{equals}{value}"
    return word


def _add_field(group: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    kind = kinds(Settings)[field.name]
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name}
    if kind.base is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        if kind.base is tuple:
            options["action"] = "extend"  # given twice, it means both
        choices = field.metadata.get("choices")
        options["metavar"] = "|".join(choices) if choices else _METAVAR[kind.base]
        options["nargs"] = "+" if kind.base is tuple else "?" if "bare" in field.metadata else None
        options["const"] = field.metadata.get("bare")
    text = f"{field.metadata['help']} ({_default(field)})".replace("%", "%%")
    group.add_argument(flag_name(field.name), help=text, **options)


_METAVAR = {int: "N", float: "X", str: "TEXT", tuple: "TEXT", dict: "JSON"}


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is None or field.default == ():
        return "default: none"
    if isinstance(field.default, bool):
        return f"default: {'on' if field.default else 'off'}"
    return f"default: {' '.join(field.default) if isinstance(field.default, tuple) else field.default}"


class _TakeVllmFlag(argparse.Action):
    """Collects flags that set nothing, for `Settings.from_sources` to accept or refuse."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        negated = option_string is not None and option_string.startswith("--no-")
        namespace.vllm_flags = {**namespace.vllm_flags, self.dest: not negated if self.nargs == 0 else values}


def _add_vllm_flags(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(vllm_flags={})
    for name, flag in VLLM_FLAGS.items():
        switch = flag.shape is Shape.SWITCH
        spellings = [f"--{name}", f"--no-{name}"] if switch else [f"--{name}"]
        parser.add_argument(
            *spellings,
            action=_TakeVllmFlag,
            dest=name.replace("-", "_"),
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
            nargs=0 if switch else _VLLM_NARGS[flag.shape],
        )
