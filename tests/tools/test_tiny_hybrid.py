"""The training model of octavo-tiny-hybrid: its delta rule, its format, and the same numbers as Octavo and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from tools.tiny import delta, export
from tools.tiny.hybrid import DeltaNet, Hybrid, HybridShape
from tools.tiny.model import Numerics
from tools.tiny.rounding import Blocks, dequantize_blocks, quantize_blocks

from compare import assert_rows
from models.test_against_transformers import LIMIT, TOKENS, Pair
from octavo.models.registry import read_folder

SHAPE = HybridShape(hidden=256, layers=2, interval=2, experts=8, top_k=8)
"""All experts are chosen: a tie between two of them would be decided either way."""


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries, keys, values, what is written, and logarithms of decays, as `delta.delta_rule` takes them."""


def step_by_step(inputs: Inputs, owners: torch.Tensor | None) -> torch.Tensor:
    """`delta.delta_rule`, token by token."""
    q, k, v, write, log_decay = inputs
    shared = v.shape[2] // k.shape[2]
    q, k = q.repeat_interleave(shared, 2), k.repeat_interleave(shared, 2)
    state = torch.zeros(*v.shape[::2], k.shape[-1], v.shape[-1], dtype=v.dtype)
    out = []
    for t in range(v.shape[1]):
        if owners is not None and t > 0:
            state = state * (owners[:, t] == owners[:, t - 1])[:, None, None, None]
        state = state * log_decay[:, t].exp()[..., None, None]
        known = torch.einsum("bhk,bhkv->bhv", k[:, t], state)
        state = state + k[:, t, :, :, None] * ((v[:, t] - known) * write[:, t, :, None])[:, :, None]
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(out, 1)


def delta_inputs(length: int, dtype: torch.dtype, *, alike: bool = False) -> Inputs:
    """Of two rows, two key heads and four value heads; alike: half the keys are one, written whole and never forgotten."""
    generator = torch.Generator().manual_seed(length)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(2, length, *size, dtype=torch.float64, generator=generator)

    q, k = (torch.nn.functional.normalize(drawn(2, 8), dim=-1) for _ in range(2))
    v, write, log_decay = drawn(4, 4), drawn(4).sigmoid(), -drawn(4).square() * 0.2
    if alike:
        half = slice(0, length // 2)
        k[:, half] = k[:, :1]
        write[:, half], log_decay[:, half] = 1.0, 0.0
    q, k, v, write, log_decay = (x.to(dtype).requires_grad_() for x in (q, k, v, write, log_decay))
    return q, k, v, write, log_decay


@pytest.mark.parametrize("packed", [False, True], ids=["one owner", "packed"])
@pytest.mark.parametrize("length", [1, 16, 45, 64])
def test_chunks_give_what_steps_give(length: int, *, packed: bool) -> None:
    owners = torch.sort(torch.randint(0, 4, (2, length))).values if packed else None
    inputs = delta_inputs(length, torch.float64)
    want = step_by_step(inputs, owners)
    got = delta.delta_rule(*inputs, delta.sight(length, owners, want.device, size=16))
    assert torch.allclose(got, want, rtol=0.0, atol=1e-12)
    weights = torch.randn(want.shape, dtype=want.dtype)
    wanted, given = (torch.autograd.grad((x * weights).sum(), inputs) for x in (want, got))
    assert all(torch.allclose(a, b, rtol=0.0, atol=1e-10) for a, b in zip(given, wanted, strict=True))


def test_float32_suffices_where_keys_are_alike() -> None:
    inputs = delta_inputs(128, torch.float32, alike=True)
    q, k, v, write, log_decay = (x.double() for x in inputs)
    want = step_by_step((q, k, v, write, log_decay), None)
    got = delta.delta_rule(*inputs, delta.sight(128, None, want.device))
    assert torch.allclose(got.double(), want, rtol=0.0, atol=2e-3)


def test_a_token_that_an_owner_does_not_see_shows() -> None:
    """The twin: with the owners of other tokens, packed rows give something else."""
    inputs = delta_inputs(48, torch.float64)
    owners = (torch.arange(48) >= 20).long().expand(2, -1)
    moved = (torch.arange(48) >= 21).long().expand(2, -1)
    want, other = (delta.delta_rule(*inputs, delta.sight(48, o, owners.device, size=16)) for o in (owners, moved))
    assert torch.equal(want[:, :20], other[:, :20])
    assert not torch.allclose(want[:, 20:], other[:, 20:], atol=1e-3)


@pytest.mark.parametrize("size", [(32, 256), (256, 32), (200, 130), (3, 128, 256)], ids=str)
def test_weights_are_stored_as_training_rounds_them(size: tuple[int, ...]) -> None:
    weight = torch.randn(size) * torch.rand(size).exp()
    codes, scale = quantize_blocks(weight)
    assert scale.shape == (*size[:-2], *(-(-side // 128) for side in size[-2:]))
    assert torch.equal(dequantize_blocks(codes, scale), Blocks().weight(weight))
    assert ((dequantize_blocks(codes, scale) - weight).abs() <= weight.abs() / 16 + 448 * scale.max() * 2**-9).all()


def fresh(numerics: Numerics) -> Hybrid:
    """A model of `SHAPE`, always the same."""
    torch.manual_seed(0)
    return Hybrid(SHAPE, numerics)


def trained_form(folder: Path, numerics: Numerics) -> Hybrid:
    """What a run that starts from `folder` begins with."""
    model = fresh(numerics)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    export.load(folder, model)
    return model


@torch.no_grad()
def test_octavo_and_transformers_compute_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the weights in bf16: roundings of activations to FP8 make much of little, of the three by turns."""
    stored, plain = tmp_path / "fp8", tmp_path / "bf16"
    plain.mkdir()
    export.save(fresh(Numerics(rounding=Blocks())), stored)
    export.save_bf16(stored, plain)
    pair = Pair(plain, plain, read_folder(plain), monkeypatch)
    model = trained_form(stored, Numerics(activations=False, dtype=torch.float32, block=16, rounding=Blocks()))
    ids = torch.randint(SHAPE.vocab, (TOKENS,), generator=torch.Generator().manual_seed(5))
    logits = model(ids[None])[0][0]
    assert_rows(pair.logits, logits, LIMIT)
    assert_rows(pair.expected_logits, logits, LIMIT)
    model.get_parameter("mixers.0.step_bias")[3] += 1.0  # one head that forgets sooner
    with pytest.raises(AssertionError, match="relative error"):
        assert_rows(pair.logits, model(ids[None])[0][0], LIMIT)


@torch.no_grad()
def test_a_folder_gives_the_model_back(tmp_path: Path) -> None:
    export.save(fresh(Numerics(rounding=Blocks())), tmp_path)
    loaded = trained_form(tmp_path, Numerics(rounding=Blocks()))
    for name, parameter in fresh(Numerics(rounding=Blocks())).named_parameters():
        assert (loaded.get_parameter(name) - parameter).norm() <= 0.04 * parameter.norm(), name
    export.save(loaded, tmp_path / "again")
    first, again = (load_file(str(folder / "model.safetensors")) for folder in (tmp_path, tmp_path / "again"))
    assert all(torch.equal(first[name].float(), again[name].float()) for name in first)
    assert first.keys() == again.keys()


@torch.no_grad()
def test_the_first_layer_recalls_what_followed_the_last_time() -> None:
    """From the first step on: the state read by a repeated token gives the value of what came behind it before."""
    model = fresh(Numerics(dtype=torch.float32, rounding=Blocks()))
    ids = torch.randperm(256)[:40].repeat(2)[None]
    first = cast("DeltaNet", model.mixers[0])
    x = torch.nn.functional.embedding(ids, model.embed)
    qkv = torch.nn.functional.linear(first.norm(x), first.qkvz)[..., : SHAPE.channels]
    q, k, _ = first.convolve(qkv, None).split([SHAPE.keys, SHAPE.keys, SHAPE.values], dim=-1)
    found = torch.einsum("bshd,bthd->bhst", first.unit(q, 1.0), first.unit(k, 1.0))[0, :, 44:, 4:40]
    assert torch.equal(found[:, :35].argmax(-1), torch.arange(1, 36).expand(SHAPE.key_heads, -1))
