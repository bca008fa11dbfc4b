"""The persistent kernels compile for Hopper, and spill nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.hopper import compiled_by, instructions, spills

FORMS = {"channel": ["down", "dense"], "static": ["dense"], "block": ["gated", "down", "dense"]}


@pytest.mark.parametrize("kind", FORMS)
def test_kernels_compile_without_spills(kind: str, tmp_path: Path) -> None:
    compiled = compiled_by("ops.experts.persistent_launches", tmp_path, kind, *FORMS[kind])
    assert sorted(compiled) == sorted(FORMS[kind])
    for names in compiled.values():
        # a consumer's four wgmma of 32 for each of two products, of the first step and of the loop; three heights in the format of channels
        assert names.count("QGMMA") >= 2 * (8 if kind == "block" else 48)
        assert "UTMALDG" in names
        assert "ACQBULK" in names, "it does not wait for the kernel before"
        assert ("LDGSTS" in names) == (kind == "block")
        assert spills(names) == 0


def test_spills_are_seen() -> None:
    text = """
        /*0010*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR8], RZ, !UPT ;
        /*0020*/              @!P1 STL.64 [R1+0x8], R2 ;
        /*0030*/                   LDL.LU R2, [R1] ;
        /*0040*/                   LDG.E R3, desc[UR4][R2.64] ;
    """
    assert instructions(text) == ["QGMMA", "STL", "LDL", "LDG"]
    assert spills(instructions(text)) == 2
