"""Tensors that end where a mapping ends, or begin where one begins: the pages beside it belong to nobody.

What a kernel reads or writes outside such a tensor, on the guarded side, is a fault: SIGSEGV on the host, an illegal
memory access on a GPU. Canaries see writes alone, and checking tools see nothing within the allocator's rounding.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import mmap
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from memory import POISON

MARGIN_BYTES = 1024
"""What a mapping has on top of its tensor, at least: where a tensor in the midst of it has its neighbours."""


class Edge(Protocol):
    """Where in a mapping a tensor lies."""

    def offset(self, room: int, num_bytes: int) -> int:
        """Bytes of a mapping of `room` bytes before a tensor of `num_bytes`."""
        ...


class End:
    """No byte behind the tensor."""

    def offset(self, room: int, num_bytes: int) -> int:
        return room - num_bytes


class Start:
    """No byte before the tensor."""

    def offset(self, room: int, num_bytes: int) -> int:
        return 0


class Midst:
    """Bytes on both sides: nothing is guarded."""

    def offset(self, room: int, num_bytes: int) -> int:
        return (room - num_bytes) // 2 // 512 * 512


class Pages(Protocol):
    """Makes mappings, with pages before and behind that must not be touched."""

    device: torch.device

    def map(self, num_bytes: int) -> torch.Tensor:
        """All bytes of a mapping of at least `num_bytes`, (room,) uint8."""
        ...

    def release(self) -> None:
        """Unmap all of them: no tensor in them may be used any more."""
        ...


class HostPages:
    """On the host: mmap, and mprotect for what lies between."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self._mappings: list[tuple[int, int]] = []

    def map(self, num_bytes: int) -> torch.Tensor:
        page = mmap.PAGESIZE
        room = -(-num_bytes // page) * page
        start = _libc().mmap(None, room + 2 * page, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        if start == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        self._mappings.append((start, room + 2 * page))
        if _libc().mprotect(start + page, room, mmap.PROT_READ | mmap.PROT_WRITE):
            raise OSError(ctypes.get_errno(), "mprotect")
        return torch.frombuffer((ctypes.c_char * room).from_address(start + page), dtype=torch.uint8)

    def release(self) -> None:
        for start, size in self._mappings:
            _libc().munmap(start, size)
        self._mappings.clear()


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


class _Location(ctypes.Structure):
    """CUmemLocation"""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _AllocFlags(ctypes.Structure):
    """CUmemAllocationProp.allocFlags"""

    _fields_ = (
        ("compressionType", ctypes.c_ubyte),
        ("gpuDirectRDMACapable", ctypes.c_ubyte),
        ("usage", ctypes.c_ushort),
        ("reserved", ctypes.c_ubyte * 4),
    )


class _AllocationProp(ctypes.Structure):
    """CUmemAllocationProp"""

    _fields_ = (
        ("type", ctypes.c_int),
        ("requestedHandleTypes", ctypes.c_int),
        ("location", _Location),
        ("win32HandleMetaData", ctypes.c_void_p),
        ("allocFlags", _AllocFlags),
    )


class _AccessDesc(ctypes.Structure):
    """CUmemAccessDesc"""

    _fields_ = (("location", _Location), ("flags", ctypes.c_int))


assert (ctypes.sizeof(_AllocationProp), ctypes.sizeof(_AccessDesc)) == (32, 12)
PINNED, ON_DEVICE, READ_WRITE, MINIMUM, RELAXED = 1, 1, 3, 0, 2
"""CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_LOCATION_TYPE_DEVICE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
CU_MEM_ALLOC_GRANULARITY_MINIMUM, CU_STREAM_CAPTURE_MODE_RELAXED"""


class _Memory:
    """Bytes at a device address, in the form from which torch makes a tensor without a copy."""

    def __init__(self, address: int, num_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 2,
        }


class DevicePages:
    """On the current CUDA device: addresses are reserved, and memory is mapped to all but the first and last of them."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        torch.empty(1, device=self.device)  # opens the context
        self._location = _Location(ON_DEVICE, self.device.index)
        self._kind = _AllocationProp(type=PINNED, location=self._location)
        grain = ctypes.c_size_t()
        _call("cuMemGetAllocationGranularity", ctypes.byref(grain), ctypes.byref(self._kind), MINIMUM)
        self._grain = grain.value
        self._mappings: list[tuple[int, int]] = []

    def map(self, num_bytes: int) -> torch.Tensor:
        grain = self._grain
        room = -(-num_bytes // grain) * grain
        start, handle = ctypes.c_ulonglong(), ctypes.c_ulonglong()
        access = _AccessDesc(self._location, READ_WRITE)
        # a stream that records a graph lets nobody allocate unless told to
        mode = ctypes.c_int(RELAXED)
        _call("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
        _call("cuMemAddressReserve", ctypes.byref(start), room + 2 * grain, grain, 0, 0)
        address = start.value + grain
        _call("cuMemCreate", ctypes.byref(handle), room, ctypes.byref(self._kind), 0)
        _call("cuMemMap", address, room, 0, handle.value, 0)
        _call("cuMemSetAccess", address, room, ctypes.byref(access), 1)
        _call("cuMemRelease", handle.value)  # what is mapped stays until it is unmapped
        _call("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
        self._mappings.append((address, room))
        return torch.as_tensor(_Memory(address, room), device=self.device)

    def release(self) -> None:
        torch.cuda.synchronize(self.device)
        for address, room in self._mappings:
            _call("cuMemUnmap", address, room)
            _call("cuMemAddressFree", address - self._grain, room + 2 * self._grain)
        self._mappings.clear()


@functools.cache
def _cuda() -> ctypes.CDLL:
    cuda = ctypes.CDLL("libcuda.so.1")
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_ulonglong
    cuda.cuMemGetAllocationGranularity.argtypes = [pointer, pointer, ctypes.c_int]
    cuda.cuThreadExchangeStreamCaptureMode.argtypes = [pointer]
    cuda.cuMemAddressReserve.argtypes = [pointer, size, size, number, number]
    cuda.cuMemCreate.argtypes = [pointer, size, pointer, number]
    cuda.cuMemMap.argtypes = [number, size, size, number, number]
    cuda.cuMemSetAccess.argtypes = [number, size, pointer, size]
    cuda.cuMemRelease.argtypes = [number]
    cuda.cuMemUnmap.argtypes = [number, size]
    cuda.cuMemAddressFree.argtypes = [number, size]
    return cuda


def _call(name: str, *args: Any) -> None:
    code = getattr(_cuda(), name)(*args)
    if code:
        raise RuntimeError(f"{name}: CUDA error {code}")


def pages_of(device: torch.device) -> Pages:
    return HostPages() if device.type == "cpu" else DevicePages()


class Placed(TorchDispatchMode):
    """Within it every tensor that PyTorch makes on the device lies at `edge` of a mapping of its own.

    So do those that an operation allocates for itself. Views stay views. Fresh memory is full of NaN. Not seen: tensors made
    of NumPy's arrays.

    >>> with Placed(pages, End()) as placed:
    ...     out = operation(x.clone())
    >>> placed.count
    """

    def __init__(self, pages: Pages, edge: Edge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pages, self._edge = pages, edge
        self.count = 0
        """Tensors placed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        given = () if name == "aten::lift_fresh" else tree_leaves((args, kwargs))
        known = {t.untyped_storage()._cdata for t in given if isinstance(t, torch.Tensor)}
        blank = name.startswith(("aten::empty", "aten::new_empty"))

        def placed(tensor: torch.Tensor) -> torch.Tensor:
            here = tensor.device == self._pages.device and tensor.numel() > 0
            return self._place(tensor, blank) if here and tensor.untyped_storage()._cdata not in known else tensor

        return tree_map_only(torch.Tensor, placed, out)

    def _place(self, tensor: torch.Tensor, blank: bool) -> torch.Tensor:
        span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        num_bytes = span * tensor.element_size()
        whole = self._pages.map(num_bytes + MARGIN_BYTES)
        at = self._edge.offset(len(whole), num_bytes)
        inner = whole[at : at + num_bytes]
        moved = inner.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), at // tensor.element_size())
        if blank:
            inner.fill_(0 if tensor.dtype is torch.bool else POISON)
        else:
            moved.copy_(tensor)
        self.count += 1
        return moved


def owned(value: Any) -> Any:
    """`value` with a copy of each tensor in it: of dataclasses, tuples, lists and dictionaries."""
    match value:
        case torch.Tensor():
            return value.clone()
        case tuple() | list():
            return type(value)(owned(part) for part in value)
        case dict():
            return {name: owned(part) for name, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: owned(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    return value


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A call: `inputs` are made once, and copied to their places before `run` gets them."""

    name: str
    inputs: tuple[Any, ...]
    run: Callable[..., list[torch.Tensor]]
