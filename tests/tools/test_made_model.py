"""The vocabulary that benchmarks of grammars take: as large as asked for, whatever sources are installed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from benchmarks import made_model

from octavo.config import Settings
from octavo.startup.model import load_model


def test_few_sources_give_a_whole_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same one each time; the pieces that there are come first."""
    monkeypatch.setattr(made_model, "common_pieces", lambda count: ["Ġdef", "Ġself", "return", '("'])
    made = [made_model.make_model(tmp_path / name, "octavo-tiny", 6000) for name in ("first", "second")]
    texts = [(folder / "tokenizer.json").read_text() for folder in made]
    assert texts[0] == texts[1]
    vocabulary = json.loads(texts[0])["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(5999))
    assert [vocabulary[piece] for piece in ("Ġdef", "Ġself", "return", '("')] == [256, 257, 258, 259]
    assert load_model(Settings(model=str(made[0]))).tokenizer.vocab_size == 6000


def test_made_words_are_many_and_have_no_signs() -> None:
    words = [*itertools.islice(made_model.unique(made_model.made_words(["return", "Ġself", '("'])), 200_000)]
    assert len({*words}) == len(words)
    assert all(word.isascii() and word.isalpha() for word in words)
