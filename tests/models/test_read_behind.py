"""What the products of a layer's first half ask for: in models of each kind of layer, the weights that are read behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import octavo
from models.test_published import CHECKPOINTS, SMALL
from octavo.models.config import ModelConfig
from octavo.models.cpu_operations import CpuOperations
from octavo.models.decoder.model import Decoder
from octavo.models.decoder.parameters import AttentionParameters, DenseMlp, SparseMlp
from octavo.models.decoder.read_behind import FEW_ROWS
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_config, read_folder
from octavo.ops.ahead import MOST_BYTES, Ahead
from octavo.ops.formats import LinearWeight
from octavo.ops.linear.layer import Linear

ASSETS = Path(octavo.__file__).parent / "assets"
GLM = CHECKPOINTS["glm-4.5-air"]
CONFIGS = {
    "attention": read_folder(ASSETS / "octavo-tiny"),
    "hybrid": read_folder(ASSETS / "octavo-tiny-hybrid"),
    "dense first": read_config(GLM.raw(**SMALL | GLM.small)),
}


class Recording(CpuOperations):
    """Keeps what each linear layer asks for, by the address of its weight."""

    def __init__(self) -> None:
        self.asked: dict[int, Ahead | None] = {}

    def linear(self, weight: LinearWeight, ahead: Ahead | None = None) -> Linear:
        self.asked[weight.data.data_ptr()] = ahead
        return super().linear(weight, ahead)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_each_layer_asks_for_what_is_read_behind(config: ModelConfig) -> None:
    parameters = config.place_parameters(fresh_memory(torch.device("cpu")))
    operations = Recording()
    Decoder(config, parameters, operations, 64)
    asked = {address: ahead for address, ahead in operations.asked.items() if ahead is not None}
    for layer in parameters.layers:
        mixer = layer.mixer
        first = mixer.qkv if isinstance(mixer, AttentionParameters) else mixer.qkvz
        by_input, by_output = asked.pop(first.data.data_ptr()), asked.pop(mixer.out.data.data_ptr())
        assert (by_input.data.data_ptr(), by_input.fewest, by_input.most) == (mixer.out.data.data_ptr(), 1, FEW_ROWS)
        match layer.mlp:
            case SparseMlp(experts=experts, rule=rule):
                weight = experts.gate_up.data
                assert rule.top_k * by_output.fewest <= len(weight) < rule.top_k * (by_output.fewest + 1)
            case DenseMlp(gate_up=gate_up):
                weight = gate_up.data
                assert by_output.fewest == 1
        assert (by_output.data.data_ptr(), by_output.most) == (weight.data_ptr(), None)
        assert len(by_output.data) == min(MOST_BYTES, weight.nbytes // 16 * 16)
    assert not asked, "others ask for nothing"
