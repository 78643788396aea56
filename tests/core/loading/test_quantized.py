"""`load_into` with a quantization method: packed checkpoints and packing on the way in."""

from __future__ import annotations

import copy
import io
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets import IDS, Net, real, skeleton, tensors_of, write
from rowwise import RowwiseWeight, rowwise_decoded, rowwise_tensors
from torch import Tensor, nn

import quantload
from quantload import CheckpointError, DeviceMapError, NoKernelError, load_into
from quantload.modules import QuantizedEmbedding, QuantizedLinear, hosts_of

pytestmark = pytest.mark.usefixtures("rowwise")

METHOD = {"quant_method": "rowwise"}
LINEARS = ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]


def packed(tensors: dict[str, Tensor], modules: list[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint in which some modules are packed."""
    found = dict(tensors)
    for module in modules:
        found |= rowwise_tensors(module, found.pop(f"{module}.weight"))
    return found


def decoded(model: Net, modules: list[str]) -> Net:
    """A float model that computes what the packed one must."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for module in modules:
            weight = twin.get_submodule(module).weight
            weight.copy_(rowwise_decoded(weight))
    return twin


def names_of_hosts(model: nn.Module) -> list[str]:
    return [name for name, _ in hosts_of(model)]


class TestOnLoad:
    def test_linears_are_packed_and_the_rest_is_as_it_was(self, tmp_path: Path) -> None:
        model = real()
        write(tmp_path, tensors_of(model), shards=2)
        ours = skeleton()
        report = load_into(ours, tmp_path, quantization_config=METHOD)
        assert names_of_hosts(ours) == LINEARS
        assert report.packed == sorted(LINEARS)
        assert torch.equal(ours(IDS), decoded(model, LINEARS)(IDS))
        assert type(ours.head) is nn.Linear
        assert torch.equal(ours.blocks[0].up.bias, model.blocks[0].up.bias)

    def test_the_float_weight_has_the_asked_for_dtype_first(self, tmp_path: Path) -> None:
        model = real()
        write(tmp_path, tensors_of(model))
        ours = skeleton()
        load_into(ours, tmp_path, quantization_config=METHOD, dtype="bfloat16")
        weight = model.blocks[0].up.weight.to(torch.bfloat16)
        assert ours.blocks[0].up.weight.dtype == torch.bfloat16
        assert torch.equal(
            ours.blocks[0].up.weight.dequantize(torch.float32), rowwise_decoded(weight)
        )

    def test_skipped_modules_stay_float(self, tmp_path: Path) -> None:
        write(tmp_path, tensors_of(real()))
        ours = skeleton()
        load_into(ours, tmp_path, quantization_config={**METHOD, "skip": ["blocks.0"]})
        assert names_of_hosts(ours) == LINEARS[2:]

    def test_a_quantized_head_leaves_a_float_embedding(self, tmp_path: Path) -> None:
        model = real(tied=True)
        write(tmp_path, tensors_of(model))
        ours = skeleton(tied=True)
        report = load_into(ours, tmp_path, quantization_config={**METHOD, "everything": True})
        assert names_of_hosts(ours) == [*LINEARS, "head"]
        assert torch.equal(ours.embed.weight, model.embed.weight)
        assert isinstance(ours.embed.weight, nn.Parameter)
        assert ("head.weight", "embed.weight") in report.untied
        hidden = torch.randn(8, 16)
        assert torch.equal(ours.head(hidden), hidden @ rowwise_decoded(model.head.weight).T)

    def test_a_config_says_quantized_and_everything_is_float(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(tmp_path, tensors_of(real()), {"quantization_config": METHOD})
        ours = skeleton()
        with caplog.at_level(logging.INFO, "quantload"):
            load_into(ours, tmp_path)
        assert names_of_hosts(ours) == LINEARS
        assert "they are quantized now" in caplog.text

    def test_a_missing_weight_is_an_error(self, tmp_path: Path) -> None:
        tensors = tensors_of(real())
        del tensors["blocks.0.up.weight"]
        ours = skeleton()
        with pytest.raises(CheckpointError, match=r"missing: blocks\.0\.up\.weight"):
            load_into(ours, write(tmp_path, tensors), quantization_config=METHOD)
        assert not names_of_hosts(ours)
        assert type(ours.blocks[0].up) is nn.Linear
        assert ours.blocks[0].up.weight.is_meta

    def test_the_staging_buffer_is_not_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from rowwise import RowwiseQuantizer

        def keeps(self: object, spec: object, weight: Tensor, device: object = None) -> object:
            return RowwiseWeight(weight.view(torch.int8)[:, ::4], weight[:, 0], torch.float32)

        monkeypatch.setattr(RowwiseQuantizer, "quantize", keeps)
        with pytest.raises(quantload.PluginError, match="kept memory"):
            load_into(skeleton(), write(tmp_path, tensors_of(real())), quantization_config=METHOD)


class TestPacked:
    def folder(self, path: Path, model: Net, modules: list[str]) -> Path:
        return write(
            path, packed(tensors_of(model), modules), {"quantization_config": METHOD}, shards=2
        )

    def test_bytes_and_outputs(self, tmp_path: Path) -> None:
        model = real()
        self.folder(tmp_path, model, LINEARS)
        ours = skeleton()
        report = load_into(ours, tmp_path)
        assert report.packed == sorted(LINEARS)
        assert torch.equal(ours(IDS), decoded(model, LINEARS)(IDS))
        wanted = rowwise_tensors("blocks.1.up", model.blocks[1].up.weight)
        weight = ours.blocks[1].up.weight
        assert torch.equal(weight.codes, wanted["blocks.1.up.codes"])
        assert torch.equal(weight.scales, wanted["blocks.1.up.scales"])

    def test_what_is_packed_is_decided_by_the_tensors(self, tmp_path: Path) -> None:
        self.folder(tmp_path, real(), ["head", "blocks.0.up"])
        ours = skeleton()
        report = load_into(ours, tmp_path)
        assert sorted(names_of_hosts(ours)) == ["blocks.0.up", "head"]
        assert report.left_float == ["blocks.0.down", "blocks.1.up", "blocks.1.down"]

    def test_a_dtype_is_the_compute_dtype_of_packed_weights(self, tmp_path: Path) -> None:
        self.folder(tmp_path, real(), LINEARS)
        ours = skeleton()
        load_into(ours, tmp_path, dtype=torch.bfloat16)
        weight = ours.blocks[0].up.weight
        assert weight.dtype == torch.bfloat16
        assert weight.scales.dtype == torch.float32
        assert ours.embed.weight.dtype == torch.bfloat16

    def test_an_embedding_and_its_tied_head_share_one_weight(self, tmp_path: Path) -> None:
        model = real(tied=True)
        self.folder(tmp_path, model, ["embed"])
        ours = skeleton(tied=True)
        load_into(ours, tmp_path)
        assert isinstance(ours.embed, QuantizedEmbedding)
        assert isinstance(ours.head, QuantizedLinear)
        assert ours.embed.weight is ours.head.weight
        assert torch.equal(ours(IDS), decoded(model, ["embed"])(IDS))
        twin = copy.deepcopy(ours)
        assert twin.embed.weight is twin.head.weight
        assert twin.embed.weight is not ours.embed.weight

    def test_a_packed_head_is_not_tied_to_a_float_embedding(self, tmp_path: Path) -> None:
        model = real(tied=True)
        tensors = tensors_of(model) | rowwise_tensors("head", model.head.weight)
        write(tmp_path, tensors, {"quantization_config": METHOD})
        ours = skeleton(tied=True)
        report = load_into(ours, tmp_path)
        assert names_of_hosts(ours) == ["head"]
        assert torch.equal(ours.embed.weight, model.embed.weight)
        assert report.untied

    def test_a_packed_tensor_of_another_shape_is_refused(self, tmp_path: Path) -> None:
        self.folder(tmp_path, real(size=8), LINEARS)
        with pytest.raises(
            CheckpointError, match=r"blocks\.0\.down is packed with shape \[8, 16\]"
        ):
            load_into(skeleton(), tmp_path)

    def test_a_packed_module_the_model_lacks_is_unexpected(self, tmp_path: Path) -> None:
        tensors = packed(tensors_of(real()), LINEARS) | rowwise_tensors("spare", torch.ones(2, 2))
        write(tmp_path, tensors, {"quantization_config": METHOD})
        with pytest.raises(CheckpointError, match=r"unexpected: spare\.codes"):
            load_into(skeleton(), tmp_path)

    def test_a_class_of_its_own_multiplies_with_its_packed_weight_and_does_nothing_else(
        self, tmp_path: Path
    ) -> None:
        class Router(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.empty(4, 6))

            def forward(self, x: Tensor) -> Tensor:
                return F.linear(x, self.weight)

        with torch.device("meta"):
            module = nn.ModuleDict({"router": Router()})
        matrix = torch.randn(4, 6)
        write(tmp_path, rowwise_tensors("router", matrix), {"quantization_config": METHOD})
        load_into(module, tmp_path)
        router, x = module["router"], torch.randn(3, 6)
        assert type(router) is Router
        torch.testing.assert_close(router(x), x @ router.weight.dequantize().T)
        for shape in ((6, 3), (2, 6, 3)):
            columns = torch.randn(shape)
            product = router.weight.dequantize() @ columns
            torch.testing.assert_close(router.weight @ columns, product)
        for wrong in (lambda: torch.matmul(x, router.weight), lambda: router.weight @ x[0]):
            with pytest.raises(quantload.UnsupportedOperationError, match=r"use \.dequantize"):
                wrong()
        floated = quantload.dequantize(module)["router"]
        assert isinstance(floated.weight, nn.Parameter)

    def test_what_cannot_host_a_packed_weight_is_refused(self, tmp_path: Path) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("weight", torch.empty(4, 4))

        with torch.device("meta"):
            module = nn.ModuleDict({"odd": Odd()})
        write(tmp_path, rowwise_tensors("odd", torch.ones(4, 4)), {"quantization_config": METHOD})
        with pytest.raises(quantload.UnsupportedOperationError, match="a Odd cannot host one"):
            load_into(module, tmp_path)


class TestOffload:
    @pytest.mark.parametrize("kind", ["packed", "on load"])
    def test_packed_bytes_survive_the_disk(self, tmp_path: Path, kind: str) -> None:
        model = real()
        tensors = packed(tensors_of(model), LINEARS) if kind == "packed" else tensors_of(model)
        config = {"quantization_config": METHOD} if kind == "packed" else None
        write(tmp_path / "model", tensors, config)
        ours = skeleton()
        places = {"embed": "cpu", "rotary": "cpu", "blocks": "disk", "head": "cpu", "steps": "cpu"}
        load_into(
            ours,
            tmp_path / "model",
            quantization_config=METHOD,
            device_map=places,
            offload_folder=tmp_path / "offload",
        )
        assert ours.blocks[0].up.weight.is_meta
        expected = decoded(model, LINEARS)(IDS)
        for _ in range(2):
            with torch.no_grad():
                assert torch.equal(ours(IDS), expected)
        assert ours.blocks[0].up.weight.is_meta
        (file,) = (tmp_path / "offload").iterdir()
        assert file.stat().st_size > 0

    def test_a_shared_packed_weight_survives_the_disk(self, tmp_path: Path) -> None:
        model = real(tied=True)
        tensors = packed(tensors_of(model), ["embed"])
        write(tmp_path / "model", tensors, {"quantization_config": METHOD})
        ours = skeleton(tied=True)
        load_into(
            ours,
            tmp_path / "model",
            device_map={"embed": "disk", "head": "disk", "": "cpu"},
            offload_folder=tmp_path / "offload",
        )
        with torch.no_grad():
            assert torch.equal(ours(IDS), decoded(model, ["embed"])(IDS))
            assert torch.equal(ours(IDS), decoded(model, ["embed"])(IDS))

    def test_it_needs_a_folder_and_says_so_before_reading(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, tensors_of(real()))
        opened = quantload.open_checkpoint(tmp_path)
        monkeypatch.setattr(opened, "read_into", lambda *a, **k: pytest.fail("a byte was read"))
        with pytest.raises(DeviceMapError, match=r"is quantized while loading.*offload_folder"):
            load_into(skeleton(), opened, quantization_config=METHOD, device_map={"": "disk"})

    def test_an_insisted_on_kernel_is_not_silently_left_out(self, tmp_path: Path) -> None:
        write(tmp_path, tensors_of(real()))
        with pytest.raises(NoKernelError, match="offloaded"):
            load_into(
                skeleton(),
                tmp_path,
                quantization_config=METHOD,
                device_map={"blocks": "disk", "": "cpu"},
                offload_folder=tmp_path / "offload",
                kernel="fast",
            )


def test_an_unknown_kernel_leaves_the_skeleton(tmp_path: Path) -> None:
    write(tmp_path, tensors_of(real()))
    module = skeleton()
    with pytest.raises(NoKernelError):
        load_into(module, tmp_path, quantization_config=METHOD, kernel="nonesuch")
    assert all(p.is_meta for p in module.parameters())
    assert type(module.blocks[0].up) is nn.Linear


class TestAfterwards:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Net:
        write(tmp_path, tensors_of(real()))
        module = skeleton()
        load_into(module, tmp_path, quantization_config=METHOD)
        return module

    def test_half_changes_the_compute_dtype_alone(self, model: Net) -> None:
        before = model.blocks[0].up.weight.storage()
        model.half()
        weight = model.blocks[0].up.weight
        assert weight.dtype == torch.float16
        assert all(torch.equal(t, before[k]) for k, t in weight.storage().items())
        assert weight.scales.dtype == torch.float32

    def test_deepcopy_and_pickle_compute_the_same(self, model: Net) -> None:
        expected = model(IDS)
        assert torch.equal(copy.deepcopy(model)(IDS), expected)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(IDS), expected)

    def test_dequantize_gives_float_modules_back(self, model: Net) -> None:
        expected = model(IDS)
        floated = quantload.dequantize(model)
        assert floated is model
        assert not names_of_hosts(model)
        assert type(model.blocks[0].up) is nn.Linear
        assert torch.equal(model(IDS), expected)
        with pytest.raises(quantload.UnsupportedOperationError, match="float already"):
            quantload.dequantize(model)
