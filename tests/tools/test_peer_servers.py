"""Servers of other engines are imported where a package that they never use is missing."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.peers import sglang_http, vllm_http
from benchmarks.peers.server import stand_in

ASKS = "import importlib.util\nassert importlib.util.find_spec('soundfile') is None, 'taken for the real one'\n"
SGLANG = {
    "sglang/srt/entrypoints/engine.py": ASKS,
    "sglang/srt/entrypoints/http_server.py": "import soundfile as sf\nimport sglang.srt.entrypoints.engine\n"
    "def launch_server(args): args['launched'].append(args)\n",
    "sglang/srt/model_loader/loader.py": "_peer_fill = None\n",
    "sglang/srt/server_args.py": "ServerArgs = dict\n",
    "sglang-1.0.dist-info/METADATA": "Name: sglang\nVersion: 1.0\n",
}
VLLM = {
    "vllm/entrypoints/openai/api_server.py": "from watchfiles import Change, awatch\n",
    "vllm/entrypoints/openai/cli_args.py": "raise LookupError('this far')\n",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with both engines, as much as is imported of them."""
    for name, text in (SGLANG | VLLM).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("soundfile", "watchfiles"):
        monkeypatch.setitem(sys.modules, name, None)  # missing, whatever this machine has
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("sglang", "vllm")]:
        del sys.modules[name]


def test_a_missing_module_is_there_within_the_block_alone() -> None:
    name = "module_that_nobody_has"
    with stand_in(name, "Change", "watch"):
        module = importlib.import_module(name)
        assert isinstance(module.Change, type)
        assert module.Change is not module.watch
        assert importlib.util.find_spec(name) is not None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


def test_it_is_gone_when_the_block_fails() -> None:
    with pytest.raises(LookupError), stand_in("module_that_nobody_has"):
        raise LookupError
    assert importlib.util.find_spec("module_that_nobody_has") is None


def test_an_installed_module_stays_itself() -> None:
    with stand_in("json", "loads"):
        assert importlib.import_module("json") is json
        assert json.loads("1") == 1
    assert sys.modules["json"] is json


def test_sglang_is_served_without_what_reads_speech(site: Path) -> None:
    launched: list[dict[str, object]] = []
    settings = {"launched": launched}
    args = argparse.Namespace(model=site, port=1, about=site / "about", extra=settings, given={"SGLANG_X": "1"})
    sglang_http.serve(args, site)
    assert launched[0]["port"] == 1
    assert json.loads(args.about.read_text())["extra"] == {"SGLANG_X": "1"}


def test_vllm_is_imported_without_what_watches_certificates(site: Path) -> None:
    with pytest.raises(LookupError, match="this far"):
        asyncio.run(vllm_http.serve(argparse.Namespace()))
