"""What the products of a layer's first half ask for: of every layer of every shape, the weights that are read behind them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

import octavo
from octavo.models.decoder.parameters import AttentionParameters, DenseMlp, SparseMlp
from octavo.models.decoder.read_behind import FEW_ROWS, ReadBehind
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_folder
from octavo.ops.ahead import MOST_BYTES

ASSETS = Path(octavo.__file__).parent / "assets"
SHAPES = [ASSETS / "octavo-tiny", ASSETS / "octavo-tiny-hybrid"]


@pytest.mark.parametrize("folder", SHAPES, ids=lambda folder: folder.name)
def test_each_layer_asks_for_its_own_and_the_next_ones_weights(folder: Path) -> None:
    layers = read_folder(folder).place_parameters(fresh_memory(torch.device("cpu"))).layers
    for layer, behind in itertools.zip_longest(layers, layers[1:]):
        found = ReadBehind.of(layer, behind)
        out, first = found.by_input
        assert (out.data.data_ptr(), out.fewest, out.most) == (layer.mixer.out.data.data_ptr(), 1, None)
        match layer.mlp:
            case SparseMlp(experts=experts, rule=rule):
                assert first.data.data_ptr() == experts.gate_up.data.data_ptr()
                assert len(first.data) == min(MOST_BYTES, experts.gate_up.data.nbytes)
                assert rule.top_k * first.fewest <= len(experts.gate_up.data) < rule.top_k * (first.fewest + 1)
            case DenseMlp(gate_up=gate_up):
                assert (first.data.data_ptr(), first.fewest) == (gate_up.data.data_ptr(), 1)
        if behind is None:
            assert found.by_output == []
            continue
        [after] = found.by_output
        mixer = behind.mixer
        weight = mixer.qkv if isinstance(mixer, AttentionParameters) else mixer.qkvz
        assert (after.data.data_ptr(), after.most) == (weight.data.data_ptr(), FEW_ROWS)
