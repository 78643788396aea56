"""`KernelSuite`: every kernel of a pack against the reference, over a grid."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
import torch

from quantload.errors import NoKernelError
from quantload.kernels import Kernel, KernelSpec, prepare
from quantload.modules import QuantizedLinear
from quantload.plugin import KernelPack
from quantload.registry import Resolved, registry
from quantload.registry.records import KERNELS
from quantload.testing.children import imported_after
from quantload.testing.comparing import differences, product_excess, same_bytes, snapshot
from quantload.testing.compiling import check_compiled
from quantload.testing.declared import Config, MethodSuite, Shape, example, inputs
from quantload.weights.packed import PackedWeight


class KernelSuite(MethodSuite):
    """What every kernel owes to every weight that it says it supports.

    A subclass names a pack and gives weights: by a `method` with `configs` (see
    `MethodSuite`), or by overriding `packed_weight`.

    Attributes:
        pack: name of the kernel pack.
        kernels: names of those kernels of the pack that are tested; all where empty.
        shapes: give ragged edges of your tiles.
        rows: numbers of input rows.
        kernel_error: label of a kernel -> what its products may deviate beyond rounding,
            in units of `|x| @ |W|.T`; for kernels that quantize inputs.
        extra_bytes: by how much an arrangement may be larger than canonical storage, as
            a fraction of it.
    """

    pack: ClassVar[str] = ""
    kernels: ClassVar[tuple[str, ...]] = ()
    shapes: ClassVar[tuple[Shape, ...]] = ((64, 128), (24, 64), (128, 192))
    rows: ClassVar[tuple[int, ...]] = (1, 2, 3, 5, 8, 16, 17, 33)
    kernel_error: ClassVar[Mapping[str, float]] = {}
    extra_bytes: ClassVar[float] = 0.05

    def packed_weight(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> PackedWeight:
        """A weight in canonical storage; override where there is no method for it."""
        return self.weight(config, shape, dtype, device)

    # -- the pack ----------------------------------------------------------------------------

    def loaded(self) -> Resolved:
        """The pack's descriptor."""
        record = registry.choose(KERNELS, self.pack, self.distribution)
        return Resolved(record, registry.descriptor(record, KernelPack))

    def all_kernels(self) -> list[Kernel]:
        """The pack's kernels that are tested."""
        found = self.loaded()
        made = [found.load(target)() for target in found.plugin.kernels]
        return [k for k in made if not self.kernels or k.name in self.kernels]

    def cases(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> Iterator[tuple[Kernel, PackedWeight]]:
        """Every kernel that supports such a weight, with a fresh one."""
        weight = self.packed_weight(config, shape, dtype, device)
        for kernel in self.all_kernels():
            if kernel.supports(KernelSpec.of(weight)):
                yield kernel, self.packed_weight(config, shape, dtype, device)

    def test_the_pack_names_kernels(self) -> None:
        """With names that can be asked for, each of its own."""
        kernels = self.all_kernels()
        names = [kernel.name for kernel in kernels]
        assert names, "the pack has none of the kernels that were declared"
        assert set(self.kernels) <= set(names)
        for kernel in kernels:
            assert isinstance(kernel, Kernel)
            assert kernel.name
            assert kernel.name != "reference", "that is plain torch's"
            assert isinstance(kernel.priority, int)
        every = [self.loaded().load(t).name for t in self.loaded().plugin.kernels]
        assert len(set(every)) == len(every)

    def test_the_descriptor_imports_no_torch(self) -> None:
        """So that listing everything installed stays quick."""
        record = self.loaded().record
        if record.target is not None:
            pytest.skip("registered in code: there is nothing a fresh process could import")
        module = record.value.partition(":")[0]
        assert not imported_after(f"import {module}", "torch"), f"{module} imports torch"

    def test_every_kernel_runs_something_of_the_grid_here(self) -> None:
        """A kernel that nothing is tested with is not tested."""
        here = {d for d in self.devices if d == "cpu" or torch.cuda.is_available()}
        idle = {k.name for k in self.all_kernels() if set(self.loaded().plugin.devices) & here}
        for device in sorted(here):
            for dtype in self.dtypes:
                for config in self.configs.values():
                    for shape in self.shapes:
                        weight = self.packed_weight(config, shape, dtype, device)
                        spec = KernelSpec.of(weight)
                        idle -= {k.name for k in self.all_kernels() if k.supports(spec)}
        gpu_only = not torch.cuda.is_available()
        idle -= {k.name for k in self.all_kernels() if gpu_only and _is_for_gpu(k, self)}
        assert not idle, f"never supported by any declared weight: {sorted(idle)}"

    def test_what_it_does_not_support_has_a_reason(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """A foreign layout, and whatever else it refuses; asking never fails."""
        spec = KernelSpec.of(self.packed_weight(config, shape, dtype, device))
        foreign = KernelSpec("nobodys-layout", spec.device, spec.capability, dtype, shape)
        for kernel in self.all_kernels():
            assert not kernel.supports(foreign)
            for asked in (spec, foreign):
                verdict = kernel.supports(asked)
                assert verdict or verdict.reason, f"{kernel.name}: a no owes a reason"

    # -- products ------------------------------------------------------------------------------

    def test_products_are_those_of_the_reference(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """Against float64, for every number of rows and inputs of every form."""
        for kernel, weight in self.cases(config, shape, dtype, device):
            matrix = weight.dequantize(torch.float32)
            prepare(weight, kernel.name)
            for x in inputs(shape[1], dtype, device, self.rows):
                given = x.clone()
                y = weight(x)
                told = f"{kernel.name}, x {list(x.shape)}"
                assert y.dtype == x.dtype, told
                assert y.shape == (*x.shape[:-1], shape[0]), told
                assert same_bytes(x, given), f"{told}: the product changed its input"
                excess = product_excess(y, x, matrix, self._allowed(kernel))
                assert excess <= 1, f"{told}: {excess:.1f} times the rounding"

    def test_products_are_in_the_dtype_of_the_input(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """Whatever the compute dtype that `supports` was asked about: only a host casts."""
        for kernel, weight in self.cases(config, shape, dtype, device):
            matrix = weight.dequantize(torch.float32)
            prepare(weight, kernel.name)
            for other in self.dtypes:
                x = example(3, shape[1], dtype=other, device=device)
                y = weight(x)
                assert y.dtype == other, f"{kernel.name}, x of {other}"
                excess = product_excess(y, x, matrix, self._allowed(kernel))
                assert excess <= 1, f"{kernel.name}, x of {other}: {excess:.1f} times the rounding"

    def test_many_threads_get_the_same_product(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """At once, and with any number of threads inside."""
        for kernel, weight in self.cases(config, shape, dtype, device):
            prepare(weight, kernel.name)
            samples = [example(5, shape[1], dtype=dtype, device=device, seed=s) for s in range(8)]
            alone = [weight(x) for x in samples]
            with ThreadPoolExecutor(4) as pool:
                together = list(pool.map(weight, samples * 4))
            for i, y in enumerate(together):
                assert same_bytes(y, alone[i % 8]), f"{kernel.name}: threads disturb each other"
            matrix, threads = weight.dequantize(torch.float32), torch.get_num_threads()
            try:
                for count in (1, 2, 3):
                    torch.set_num_threads(count)
                    excess = product_excess(
                        weight(samples[0]), samples[0], matrix, self._allowed(kernel)
                    )
                    assert excess <= 1, f"{kernel.name} with {count} threads"
            finally:
                torch.set_num_threads(threads)

    def test_the_gradient_reaches_the_input(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """It is the product with the dequantized weight."""
        if not self.trainable:
            pytest.skip("declared: it cannot be trained on")
        for kernel, weight in self.cases(config, shape, dtype, device):
            matrix = weight.dequantize(torch.float32)
            prepare(weight, kernel.name)
            for leading in ((1,), (7,), (2, 3)):
                x = example(*leading, shape[1], dtype=dtype, device=device).requires_grad_()
                grad = example(*leading, shape[0], dtype=dtype, device=device, seed=3)
                weight(x).backward(grad)
                assert x.grad is not None, kernel.name
                excess = product_excess(x.grad, grad, matrix.T)
                assert excess <= 1, f"{kernel.name}: gradient {excess:.1f} times the rounding"

    def test_it_is_compiled_without_a_graph_break(self, config: Config, device: str) -> None:
        """By `torch.compile(fullgraph=True)`, forward and backward, for several row counts."""
        if not self.compileable:
            pytest.skip("declared: it cannot be compiled")
        shape, done = self.shapes[0], set()
        for dtype in self.dtypes:
            for kernel, weight in self.cases(config, shape, dtype, device):
                if kernel.name not in done:
                    done.add(kernel.name)
                    prepare(weight, kernel.name)
                    host = QuantizedLinear(weight)
                    check_compiled(host, shape, dtype, device, trainable=self.trainable)

    # -- arrangements --------------------------------------------------------------------------

    def test_the_canonical_storage_comes_back_exactly(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """From any number of arrangements, with forward passes in between."""
        for kernel, weight in self.cases(config, shape, dtype, device):
            before = snapshot(weight.storage())
            for _ in range(2):
                prepare(weight, kernel.name)
                assert weight.kernel is not None
                assert weight.kernel.name == kernel.name
                assert not differences(weight.canonical().storage(), before), kernel.name
                for rows in (1, 40):
                    weight(example(rows, shape[1], dtype=dtype, device=device))
                    assert not differences(weight.canonical().storage(), before), kernel.name
                weight.repack(None)
                assert not differences(weight.storage(), before), kernel.name

    def test_an_arrangement_takes_the_place_of_the_storage(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """There are never two copies, and nothing is prepared in a forward pass."""
        for kernel, weight in self.cases(config, shape, dtype, device):
            canonical = weight.nbytes
            prepare(weight, kernel.name)
            room = canonical * (1 + self.extra_bytes) + 64
            assert weight.nbytes <= room, f"{kernel.name} keeps {weight.nbytes} for {canonical}"
            arranged = snapshot(weight.storage())
            kept = set(vars(weight))
            for rows in self.rows:
                weight(example(rows, shape[1], dtype=dtype, device=device))
                told = f"{kernel.name} changed its storage"
                assert not differences(weight.storage(), arranged), told
            assert set(vars(weight)) == kept, f"{kernel.name} keeps something in the weight"

    def test_numbers_rows_and_shards_go_through_the_canonical_storage(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """Dequantizing, rows and splitting are the same with a kernel as without."""
        for kernel, weight in self.cases(config, shape, dtype, device):
            matrix, ids = weight.dequantize(torch.float32), torch.tensor([0, 2], device=device)
            rows = weight(ids)
            prepare(weight, kernel.name)
            assert same_bytes(weight.dequantize(torch.float32), matrix), kernel.name
            assert same_bytes(weight(ids), rows), kernel.name
            for dim in self.shard_dims:
                parts = [weight.shard(dim, rank, 2) for rank in range(2)]
                joined = torch.cat([part.dequantize(torch.float32) for part in parts], dim)
                assert same_bytes(joined, matrix), kernel.name

    def test_copies_casts_and_moves_keep_the_numbers(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """With a kernel in use: `deepcopy`, `pickle`, `.to(dtype)`, to another device and back."""
        for kernel, weight in self.cases(config, shape, dtype, device):
            before, matrix = snapshot(weight.storage()), weight.dequantize(torch.float32)
            prepare(weight, kernel.name)
            copied: dict[str, Any] = {
                "deepcopy": copy.deepcopy(weight),
                "pickle": pickle.loads(pickle.dumps(weight)),  # noqa: S301  made on this line
            }
            x = example(3, shape[1], dtype=dtype, device=device)
            for how, twin in copied.items():
                assert not differences(twin.canonical().storage(), before), f"{kernel.name}: {how}"
                excess = product_excess(twin(x), x, matrix, self._allowed(kernel))
                assert excess <= 1, f"{kernel.name}: {how}"
            for other in self.dtypes:
                weight.to(other)
                y = weight(x.to(other))
                excess = product_excess(y, x.to(other), matrix, self._allowed(kernel))
                assert excess <= 1, f"{kernel.name} after .to({other})"
                assert not differences(weight.canonical().storage(), before), kernel.name
            weight.to("meta")
            assert weight.is_meta

    def test_insisting_on_it_for_another_layout_is_refused(
        self, config: Config, shape: Shape
    ) -> None:
        """With every candidate's reason."""

        class Foreign(PackedWeight):
            layout = "nobodys-layout"

            def decode(self, dtype: torch.dtype) -> torch.Tensor:
                return torch.zeros(self.shape, dtype=dtype)

        weight = Foreign(shape, torch.float32)
        weight.store("nothing", torch.zeros(math.prod(shape)))
        for kernel in self.all_kernels():
            with pytest.raises(NoKernelError, match=kernel.name):
                prepare(weight, kernel.name)

    def _allowed(self, kernel: Kernel) -> float:
        return max(self.product_error, self.kernel_error.get(kernel.name, 0.0))


def _is_for_gpu(kernel: Kernel, suite: KernelSuite) -> bool:
    """Whether a kernel refuses every declared weight for not being on a GPU."""
    weight = next(
        suite.packed_weight(config, shape, suite.dtypes[0], "cpu")
        for config in suite.configs.values()
        for shape in suite.shapes
    )
    spec = KernelSpec.of(weight)
    gpu = KernelSpec(spec.layout, torch.device("cuda"), (9, 0), spec.dtype, spec.shape, spec.params)
    return bool(kernel.supports(gpu)) and not kernel.supports(spec)
