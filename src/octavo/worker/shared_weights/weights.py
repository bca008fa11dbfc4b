"""Weights in one block of memory: loaded once by the keeper, mapped by every worker."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import torch

from octavo.messages import HostBlock, KeptWeights, WorkerConfig
from octavo.models.config import ModelConfig
from octavo.models.load import LoadedModel, build_model, fill_parameters
from octavo.models.operations import Operations
from octavo.models.placing import fresh_memory
from octavo.models.registry import decode_config, encode_config
from octavo.worker.host_memory import GIB, require_room
from octavo.worker.memory import await_memory, free_bytes, taken_bytes
from octavo.worker.model_folder import read_model
from octavo.worker.sampling.counts import counts_bytes_per_request
from octavo.worker.shared_weights.device_block import create_device_block, map_device_block
from octavo.worker.shared_weights.host_block import create_host_block, map_host_block

ALIGNMENT = 512
"""Bytes: what torch's own allocator gives on CUDA."""


WORDS = ALIGNMENT // 8
"""64-bit words of a row of a checksum."""
ROWS = 2**20
"""Rows that are summed at a time: 512 MiB, whose sums take 8 MiB."""


class _Layout:
    """Tensors one after the other in `block` (n,) uint8, which may be longer than needed."""

    def __init__(self, block: torch.Tensor) -> None:
        self._block = block
        self.num_bytes = 0

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        begin = self.num_bytes
        end = begin + math.prod(shape) * dtype.itemsize
        self.num_bytes = -(-end // ALIGNMENT) * ALIGNMENT
        return self._block[begin:end].view(dtype).view(shape)


class _Heap:
    """Tensors each in memory of its own on `device`, and the checksum of a block that holds them as `_Layout` does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tensors: list[torch.Tensor] = []

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device=self._device)
        self._tensors.append(tensor)
        return tensor

    def checksum(self) -> int:
        total, first_row = 0, 0
        for tensor in self._tensors:
            data = tensor.view(-1).view(torch.uint8)
            total += checksum(data, first_row)
            first_row += -(-len(data) // ALIGNMENT)
        return _signed(total)


def load_weights(config: WorkerConfig, device: torch.device, operations: Operations) -> tuple[LoadedModel, int]:
    """The model on weights of its own, and their checksum, as that of a keeper's block.

    Raises:
        CheckpointError, ConfigError: as `load_model`.
    """
    folder = Path(config.model)
    model, heap = read_model(config), _Heap(device)
    parameters = model.place_parameters(heap)
    fill_parameters(parameters, model, folder, load_format=config.load_format, seed=config.seed)
    return build_model(model, parameters, operations, config.max_model_len), heap.checksum()


class PlacedWeights:
    """A block of memory for the weights that lasts as long as this process; others may map it before they are loaded.

    Raises:
        CheckpointError, ConfigError: as `load_model`; or the weights do not fit in the device's memory.
    """

    def __init__(self, config: WorkerConfig, device: torch.device) -> None:
        self._config, self._device, self._model = config, device, read_model(config)
        taken = taken_bytes(device)
        require_weight_room(self._model, device, num_states=config.num_states, num_requests=config.max_num_seqs)
        num_bytes = block_bytes(self._model)
        on_cuda = device.type == "cuda"
        self._data, block = create_device_block(num_bytes, device) if on_cuda else create_host_block(num_bytes)
        self.kept = KeptWeights(block=block, num_bytes=num_bytes, model=encode_config(self._model), taken_bytes=taken)
        """Where they will be."""

    def load(self) -> KeptWeights:
        """Fill the block; where they are now.

        Raises:
            CheckpointError, ConfigError: as `load_model`.
        """
        config = self._config
        parameters = self._model.place_parameters(_Layout(self._data))
        fill_parameters(parameters, self._model, Path(config.model), load_format=config.load_format, seed=config.seed)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
        return msgspec.structs.replace(self.kept, checksum=checksum(self._data))


class OwnWeights:
    """Weights that this process loads for itself.

    Args:
        config: says which, and for what.
        device: where they are to be used.
        operations: what the model on them is computed with.

    Raises:
        CheckpointError, ConfigError: as `load_model`; or they do not fit in the device's memory.
    """

    are_loaded = True

    def __init__(self, config: WorkerConfig, device: torch.device, operations: Operations) -> None:
        self.taken_bytes = taken_bytes(device)
        """Of the device's memory, in use before they were loaded."""
        seats = config.max_num_seqs
        require_weight_room(read_model(config), device, num_states=config.num_states, num_requests=seats)
        self._loaded, self._checksum = load_weights(config, device, operations)

    def verify(self, told: KeptWeights | None) -> int:
        """Their checksum; nobody else could have written to them. None are `told`."""
        assert told is None
        return self._checksum

    def build(self) -> LoadedModel:
        """The model on them."""
        return self._loaded


class MappedWeights:
    """A keeper's weights, which are not copied.

    Args:
        kept: where they are, or will be.
        device: where they are to be used.
        operations: what the model on them is computed with.
        positions: most tokens of a request.

    Raises:
        OSError, ValueError, RuntimeError: the keeper's memory cannot be mapped.
    """

    def __init__(self, kept: KeptWeights, device: torch.device, operations: Operations, positions: int) -> None:
        self._kept, self._operations, self._positions = kept, operations, positions
        self.taken_bytes = kept.taken_bytes
        self.are_loaded = kept.checksum is not None
        match kept.block:
            case HostBlock() as block:
                self._data = map_host_block(block, kept.num_bytes)
            case block:
                self._data = map_device_block(block, kept.num_bytes, device)

    def verify(self, told: KeptWeights | None) -> int:
        """Their checksum, which must be the one that is `told` of them when they are loaded: a kernel that wrote out of bounds may
        have hit them before it hit nothing.

        Raises:
            RuntimeError: the weights are not what they were when they were loaded.
        """
        assert told is not None
        found = checksum(self._data)
        if found != told.checksum:
            raise RuntimeError("the weights in memory are not what was loaded")
        return found

    def build(self) -> LoadedModel:
        """The model on them as they are: on weights that are still being loaded, one to compile kernels for, as what it makes of a weight
        it does not make again.
        """
        model = decode_config(self._kept.model)
        return build_model(model, model.place_parameters(_Layout(self._data)), self._operations, self._positions)


def block_bytes(model: ModelConfig) -> int:
    """Bytes of the block that holds all parameters of `model`."""
    counted = _Layout(torch.empty(2**62, dtype=torch.uint8, device="meta"))
    model.place_parameters(counted)
    return counted.num_bytes


def require_weight_room(
    model: ModelConfig, device: torch.device, *, num_states: int = 0, num_requests: int = 0
) -> None:
    """Refuse weights that do not fit on `device` beside what requests hold, before memory is taken for them.

    Args:
        num_states: recurrent states.
        num_requests: that run at once, each of which may have the counts of its tokens, for penalties.

    Raises:
        ConfigError: says how much they take and how much is free.
    """
    num_bytes, what = block_bytes(model), "its weights take"
    if device.type == "cpu":
        num_bytes += copy_bytes(model)
        what = "its weights, with the float32 copies that a CPU computes with, take"
    else:
        await_memory(num_bytes)
    require_room(num_bytes, free_bytes(device), "model", what)
    states = num_states * model.facts.state_bytes_per_request
    counts = num_requests * counts_bytes_per_request(model.vocab_size)
    if states or counts:
        held = f"{num_states} states and the counts" if states else "the counts"
        what = f"{what} {num_bytes / GIB:,.1f} GiB; they and {held} of {num_requests} requests take"
        require_room(num_bytes + states + counts, free_bytes(device), "max_num_seqs", what)


def copy_bytes(model: ModelConfig) -> int:
    """Bytes of the float32 copies of all matrices that a CPU makes products with."""
    parameters = model.place_parameters(fresh_memory(torch.device("meta")))
    matrices = (
        view
        for name, view in parameters.sources.items()
        if view.ndim == 2 and not name.endswith(("_scale", "_scale_inv"))
    )
    looked_up = 0 if model.tie_word_embeddings else parameters.embedding.numel()
    return 4 * (sum(view.numel() for view in matrices) - looked_up)


def checksum(data: torch.Tensor, first_row: int = 0) -> int:
    """The rows of 512 bytes of `data` (n,) uint8, each the sum of its 64-bit words, times the odd numbers from
    2 `first_row` + 1, all modulo 2^64 and as a signed number. Any one changed word shows, and rows that changed places;
    the last row counts as filled up with zeros. Reads `data` once, where it lies."""
    whole = len(data) // ALIGNMENT * ALIGNMENT
    rows = data[:whole].view(torch.int64).view(-1, WORDS)
    total = sum(_weighted(rows[at : at + ROWS], first_row + at) for at in range(0, len(rows), ROWS))
    if whole < len(data):
        last = torch.zeros(ALIGNMENT, dtype=torch.uint8, device=data.device)
        last[: len(data) - whole] = data[whole:]
        total += _weighted(last.view(torch.int64).view(1, WORDS), first_row + len(rows))
    return _signed(total)


def _weighted(rows: torch.Tensor, first_row: int) -> int:
    odd = torch.arange(first_row, first_row + len(rows), device=rows.device) * 2 + 1
    return int((rows.sum(1) * odd).sum())


def _signed(number: int) -> int:
    """`number` modulo 2^64, as a signed 64-bit integer."""
    return (number + 2**63) % 2**64 - 2**63
