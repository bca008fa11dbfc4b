"""Every broken argument is refused on the host, by name and with a remedy."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Callable

import pytest
import torch

import octavo.ops
from octavo.errors import KernelContractError
from octavo.ops.contract import Dims
from octavo.ops.experts.grouped_gemm.choice import choose_tiles, tuned_tiles
from octavo.ops.experts.grouped_gemm.table import TABLE
from octavo.ops.experts.grouped_gemm.tile import Tile
from octavo.ops.formats import Weights
from octavo.ops.launch import GRID_LIMIT, LaunchDims, check_grid
from octavo.ops.linear.choice import choose_block_tile, choose_tile

ROOM = pathlib.Path(octavo.ops.__path__[0])
OPS = [
    "adjust",
    "attention",
    "delta_net",
    "draw",
    "experts",
    "gates",
    "largest",
    "linear",
    "norm",
    "peak",
    "prepare_qkv",
    "quantize",
    "rotary",
]
"""Folders of operations that a model is made of, and of those that choose a token."""
STEPS = ["combine", "grouped_gemm", "permute", "route"]
"""Folders of the steps of the expert layer, which CUDA alone takes one by one."""
LAUNCHERS = [
    "attention.cuda",
    "experts.moe",
    "gates.cuda",
    "linear.dense_gemm",
    "norm.cuda",
    "prepare_qkv.cuda",
    "quantize.cuda",
]
LAUNCHERS += [f"experts.{step}" for step in STEPS]


def bound(device: torch.device) -> Dims:
    dims = LaunchDims()
    dims.check("x", torch.zeros(3, 4, device=device), ("T", "H"), dtype=torch.float32)
    return dims


def test_names_bind_and_sizes_are_read_back(device: torch.device) -> None:
    dims = bound(device)
    assert (dims["T"], dims["H"]) == (3, 4)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        pytest.param(torch.zeros(4), ["scale", "T=3 as in x", "(4)"], id="size"),
        pytest.param(torch.zeros(3, 1), ["scale", "T=3 as in x", "(3, 1)"], id="rank"),
        pytest.param(torch.zeros(3, dtype=torch.float64), ["scale", "float32", "float64", ".to(float32)"], id="dtype"),
        pytest.param(torch.zeros(6)[::2], ["scale", "contiguous", "(2,)", ".contiguous()"], id="stride"),
        pytest.param(torch.zeros(3, device="meta"), ["scale", "meta"], id="device"),
    ],
)
def test_a_wrong_tensor_is_refused(device: torch.device, tensor: torch.Tensor, words: list[str]) -> None:
    tensor = tensor if tensor.device.type == "meta" else tensor.to(device)
    if words[1] == "contiguous":
        tensor = torch.zeros(6, device=device)[::2]
    with pytest.raises(KernelContractError) as error:
        bound(device).check("scale", tensor, ("T",), dtype=torch.float32)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_operations_of_pytorch_take_any_strides_and_one_device() -> None:
    dims = Dims()
    dims.check("x", torch.zeros(6)[::2], ("T",), dtype=torch.float32)
    with pytest.raises(KernelContractError, match=r"y: .*cpu"):
        dims.check("y", torch.zeros(3, device="meta"), ("T",), dtype=torch.float32)


def test_grid_limit_is_checked_on_the_host() -> None:
    """Class A, vllm#43599: a grid past the device's limit."""
    assert check_grid("gemm", GRID_LIMIT) == (GRID_LIMIT,)
    with pytest.raises(KernelContractError, match="fewer tokens"):
        check_grid("gemm", GRID_LIMIT + 1)


@pytest.mark.parametrize(
    ("tile", "reason"),
    [
        pytest.param(Tile(8, 64, 4, 4), "rows 8", id="rows"),
        pytest.param(Tile(16, 32, 4, 4), "cols 32", id="cols"),
        pytest.param(Tile(16, 64, 4, 2, step_factor=8), "step_factor 8", id="steps"),
        pytest.param(Tile(16, 64, 2, 4), "warps 2", id="warps"),
        pytest.param(Tile(16, 64, 4, 1), "stages 1", id="stages"),
        pytest.param(Tile(256, 128, 8, 8), "shared memory", id="shared"),
        pytest.param(Tile(256, 256, 8, 2), "accumulators", id="registers"),
    ],
)
def test_a_tile_that_cannot_run_says_why(tile: Tile, reason: str) -> None:
    with pytest.raises(KernelContractError, match=reason):
        tile.check(gated=True, step_bytes=128)


@pytest.mark.parametrize("experts", [1, 8, 128, 512])
def test_safe_tiles_are_legal_at_every_size(experts: int) -> None:
    for assignments in [0, 1, 8, 100, 1000, 10_000, 2_000_000]:
        gate_up, down = tuned_tiles(("Fp8Block", experts, 2048, 80), assignments)
        assert gate_up.rows == down.rows
        gate_up.check(gated=True, step_bytes=128)
        down.check(gated=False, step_bytes=128)


def test_every_tile_of_the_table_is_legal_and_the_assignments_ascend() -> None:
    formats = {kind.__name__ for parent in Weights.__subclasses__() for kind in (parent.__subclasses__() or [parent])}
    for (kind, *_), entries in TABLE.items():
        assert kind in formats
        assert [most for most, _, _ in entries] == sorted({most for most, _, _ in entries})
        for _, gate_up, down in entries:
            assert gate_up.rows == down.rows
            gate_up.check(gated=True, step_bytes=128)
            down.check(gated=False, step_bytes=128)


@pytest.mark.parametrize("persistent", [False, True], ids=["tiles", "persistent"])
@pytest.mark.parametrize("top_k", [1, 2, 6, 8])
@pytest.mark.parametrize("shape", [*TABLE, ("Fp8Channel", 60, 2048, 1408), ("Fp8Block", 128, 4096, 1536)], ids=str)
def test_no_tile_is_chosen_only_between_two_powers_of_two(
    shape: tuple[str, int, int, int], top_k: int, persistent: bool
) -> None:
    """The worker loads its kernels at these numbers of tokens; a tile that none of them takes would be compiled later."""
    assert not compiled_late(lambda tokens: choose_tiles(shape, tokens * top_k, persistent=persistent))
    for columns in (128, 5120, 151936):
        for element_size in (1, 2):
            assert not compiled_late(lambda tokens: choose_tile(tokens, columns, 16, element_size))  # noqa: B023 (called here)
    assert not compiled_late(choose_block_tile)


def test_a_tile_between_two_powers_of_two_would_be_found() -> None:
    assert compiled_late(lambda tokens: "narrow" if 65 <= tokens <= 127 else "wide") == set(range(65, 128))


def compiled_late(choose: Callable[[int], object]) -> set[int]:
    """Numbers of tokens whose tile no power of two takes."""
    loaded = {choose(1 << i) for i in range(15)}
    return {tokens for tokens in range(1, 1 << 14) if choose(tokens) not in loaded}


@pytest.mark.parametrize("op", OPS)
def test_an_operation_has_both_back_ends_a_reference_and_tests(op: str) -> None:
    """The rotation alone is one piece of code for every device."""
    folder = ROOM / op
    backs = {"__init__.py"} if op == "rotary" else {"__init__.py", "cpu.py", "cuda.py"}
    assert {*backs, "reference.py"} <= {path.name for path in folder.glob("*.py")}
    assert list((pathlib.Path(__file__).parent / op).glob("test_*.py"))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_experts_has_launcher_kernel_reference_and_test(step: str) -> None:
    names = {path.name for path in (ROOM / "experts" / step).glob("*.py")}
    assert {"__init__.py", "kernel.py", "reference.py"} <= names
    assert (pathlib.Path(__file__).parent / "experts" / f"test_{step}.py").exists()


def test_every_folder_is_known() -> None:
    folders = {path.parent.relative_to(ROOM).as_posix() for path in ROOM.rglob("__init__.py")}
    assert folders == {".", "wild_write", *OPS, *(f"experts/{step}" for step in STEPS)}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_public_functions_say_shapes_dtypes_and_errors(launcher: str) -> None:
    module = importlib.import_module(f"octavo.ops.{launcher}")
    functions = [getattr(module, name) for name in module.__all__ if name.islower()]
    for function in functions:
        if function.__name__ in ("choose_tile", "choose_tiles", "max_tiles", "most_apart"):
            continue
        assert "(" in function.__doc__, function.__name__
        assert "Raises:" in function.__doc__, function.__name__
