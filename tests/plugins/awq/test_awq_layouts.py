"""Random codes through every layout and width, against decoders that work element by element."""

from __future__ import annotations

import pytest
import slow_layouts
import torch
from cases import same_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from quantload import AutoHfQuantizer
from quantload.weights.affine import AffineWeight

Layer = tuple[dict[str, object], AffineWeight]


@st.composite
def layers(draw: st.DrawFn, version: str, bits: int) -> Layer:
    group_size = draw(st.sampled_from([32, 64, 128] if version != "gemm" else [8, 32, 128]))
    fast = version in ("gemv_fast", "llm-awq")
    rows = draw(st.integers(1, 6)) * (8 if bits == 4 else 5)
    columns = group_size * draw(st.integers(1, 3)) * (2 if fast and group_size < 64 else 1)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 31)))
    shape = (rows, columns // group_size)
    weight = AffineWeight.from_codes(
        torch.randint(0, 1 << bits, (rows, columns), generator=generator, dtype=torch.uint8),
        (torch.rand(shape, generator=generator) + 0.1).half(),
        torch.randint(0, 1 << bits, shape, generator=generator),
        bits=bits,
        group_size=draw(st.just(group_size)),
    )
    if fast:
        weight = weight.with_offsets(rounded=True)
    config = {"quant_method": "awq", "bits": bits, "group_size": group_size, "version": version}
    return config, weight


def run(version: str, bits: int, check: object) -> None:
    @settings(max_examples=10, deadline=None, database=None)
    @given(layer=layers(version, bits))
    def each(layer: Layer) -> None:
        config, weight = layer
        quantizer = AutoHfQuantizer.from_config(config)
        tensors = quantizer.unpack("layer", weight)
        check(weight, tensors)  # type: ignore[operator]
        again = quantizer.pack("layer", tensors)
        assert torch.equal(again.dequantize(torch.float32), weight.dequantize(torch.float32))
        same_bytes(quantizer.unpack("layer", again), tensors)

    each()


@pytest.mark.parametrize("bits", range(2, 9))
def test_gemm(bits: int) -> None:
    def check(weight: AffineWeight, tensors: dict[str, torch.Tensor]) -> None:
        rows = weight.shape[0]
        codes = slow_layouts.gemm_fields(tensors["qweight"], bits, rows)
        assert codes == weight.plain_codes().tolist()
        zeros = slow_layouts.gemm_fields(tensors["qzeros"], bits, rows)
        assert zeros == weight.zero_points().tolist()
        assert torch.equal(tensors["scales"], weight.scales.T)

    run("gemm", bits, check)


def test_gemv() -> None:
    def check(weight: AffineWeight, tensors: dict[str, torch.Tensor]) -> None:
        codes = slow_layouts.gemv_fields(tensors["qweight"], weight.shape[1])
        assert codes == weight.plain_codes().tolist()
        zeros = slow_layouts.gemv_fields(tensors["qzeros"], weight.groups)
        assert zeros == weight.zero_points().tolist()
        step = max(1, 128 // weight.group_size)
        words = (weight.groups + 7) // 8
        width = (words + step - 1) // step * step
        assert tensors["qzeros"].shape[1] == width
        assert tensors["scales"].shape[1] == 8 * width
        assert torch.equal(tensors["scales"][:, : weight.groups], weight.scales)
        assert not tensors["scales"][:, weight.groups :].any()

    run("gemv", 4, check)


@pytest.mark.parametrize("version", ["gemv_fast", "llm-awq"])
def test_gemv_fast(version: str) -> None:
    def check(weight: AffineWeight, tensors: dict[str, torch.Tensor]) -> None:
        assert slow_layouts.fast_codes(tensors["qweight"]) == weight.plain_codes().tolist()
        name = "scaled_zeros" if version == "llm-awq" else "qzeros"
        assert torch.equal(tensors["scales"][: weight.groups], weight.scales.T)
        assert torch.equal(tensors[name][: weight.groups], weight.offsets.T)
        assert tensors[name].dtype == torch.float16
        assert not tensors[name][weight.groups :].any()

    run(version, 4, check)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_random_words_of_gemm_survive_whatever_their_padding(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    rows, columns, groups = 37, 24, 3
    words = -(-rows * bits // 32)

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(-(1 << 31), 1 << 31, shape, generator=generator).to(torch.int32)

    tensors = {
        "qweight": integers(columns, words),
        "qzeros": integers(groups, words),
        "scales": torch.rand(groups, rows, generator=generator).bfloat16(),
    }
    quantizer = AutoHfQuantizer.from_config({"quant_method": "awq", "bits": bits, "group_size": 8})
    weight = quantizer.pack("layer", tensors)
    assert weight.plain_codes().tolist() == slow_layouts.gemm_fields(tensors["qweight"], bits, rows)
    assert weight.zero_points().tolist() == slow_layouts.gemm_fields(tensors["qzeros"], bits, rows)
    same_bytes(quantizer.unpack("layer", weight), tensors)


def test_what_gemv_pads_survives() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(1 << 31), 1 << 31, (16, 1), generator=generator).to(torch.int32)
    tensors = {
        "qweight": torch.randint(-(1 << 31), 1 << 31, (16, 32), generator=generator).to(
            torch.int32
        ),
        "qzeros": words,
        "scales": torch.nn.functional.pad(torch.ones(16, 2).half(), (0, 6)),
    }
    raw = {"quant_method": "awq", "group_size": 128, "version": "gemv"}
    quantizer = AutoHfQuantizer.from_config(raw)
    same_bytes(quantizer.unpack("layer", quantizer.pack("layer", tensors)), tensors)
