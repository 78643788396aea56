"""The tables are the library's, bit for bit."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from quantload_bitsandbytes.codebooks import QUANT_TYPES, codebook, dynamic_map


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
def test_four_bit_tables_equal_the_librarys(oracle: ModuleType, quant_type: str) -> None:
    theirs = oracle.get_4bit_type(quant_type, device="cpu")
    assert torch.equal(codebook(quant_type).view(torch.int32), theirs.view(torch.int32))


def test_dynamic_map_equals_the_librarys(oracle: ModuleType) -> None:
    theirs = oracle.create_dynamic_map()
    assert torch.equal(dynamic_map().view(torch.int32), theirs.view(torch.int32))


def test_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="nf4"):
        codebook("int4")


def test_tables_are_on_the_cpu_whatever_the_default_device() -> None:
    codebook.cache_clear()
    dynamic_map.cache_clear()
    with torch.device("meta"), torch.inference_mode():
        tables = [codebook("nf4"), codebook("fp4"), dynamic_map()]
    assert all(table.device.type == "cpu" and not table.is_inference() for table in tables)
