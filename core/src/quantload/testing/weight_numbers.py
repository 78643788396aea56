"""Checks of packed weights: numbers, products, rows, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quantload.modules import QuantizedLinear
from quantload.testing.comparing import (
    differences,
    product_excess,
    same_bytes,
    snapshot,
)
from quantload.testing.compiling import check_compiled
from quantload.testing.declared import Config, MethodSuite, Shape, example, inputs


class WeightNumbers(MethodSuite):
    """What a weight computes is what its dequantized matrix computes."""

    def test_dequantizing_gives_a_new_matrix_of_the_dtype_asked_for(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """Close to the float32 numbers, and nobody else's memory."""
        weight = self.weight(config, shape, dtype, device)
        exact = weight.dequantize(torch.float32).clone()
        assert tuple(exact.shape) == shape
        found = weight.dequantize()
        assert (found.dtype, found.device.type) == (dtype, device)
        room = 4 * torch.finfo(dtype).eps * exact.abs().max()
        assert ((found.float() - exact).abs() <= room).all()
        found.zero_()
        exact_again = weight.dequantize(torch.float32)
        assert same_bytes(exact_again, exact), "dequantize handed out its own storage"

    def test_float32_is_never_rounded_through_a_narrower_type(
        self, config: Config, shape: Shape
    ) -> None:
        """Whatever the compute dtype, and the numbers have more digits than float16."""
        weight = self.weight(config, shape)
        exact = weight.dequantize(torch.float32)
        for narrow in (torch.bfloat16, torch.float16):
            assert not torch.equal(exact, exact.to(narrow).float()), f"rounded through {narrow}"
            twin = self.weight(config, shape, narrow)
            assert same_bytes(twin.dequantize(torch.float32), exact), f"computing in {narrow}"

    def test_products_are_those_of_the_dequantized_weight(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """Against float64, for inputs of every form; in the dtype of the input."""
        weight = self.weight(config, shape, dtype, device)
        matrix = weight.dequantize(torch.float32)
        for x in inputs(shape[1], dtype, device):
            given = x.clone()
            y = weight(x)
            assert y.dtype == x.dtype
            assert y.shape == (*x.shape[:-1], shape[0])
            assert same_bytes(x, given), "the product changed its input"
            excess = product_excess(y, x, matrix, self.product_error)
            assert excess <= 1, f"x {list(x.shape)}: {excess:.1f} times the rounding"

    def test_products_are_in_the_dtype_of_the_input(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """Whatever the compute dtype: only a host casts."""
        weight = self.weight(config, shape, dtype, device)
        matrix = weight.dequantize(torch.float32)
        for other in (*self.dtypes, torch.float64):
            x = example(3, shape[1], dtype=other, device=device)
            y = weight(x)
            assert y.dtype == other
            excess = product_excess(y, x, matrix, self.product_error)
            assert excess <= 1, f"x of {other}: {excess:.1f} times the rounding"

    def test_rows_are_those_of_the_dequantized_weight(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """As an embedding gives them: any number, repeated, in any arrangement, or none."""
        weight = self.weight(config, shape, dtype, device)
        matrix = weight.dequantize()
        room = 4 * torch.finfo(dtype).eps * matrix.abs().max()
        last = shape[0] - 1
        for listed in ([0, last, last, 1], [[1, 0], [last, 2]], []):
            ids = torch.tensor(listed, dtype=torch.long, device=device)
            rows = weight(ids)
            assert rows.shape == (*ids.shape, shape[1])
            assert rows.dtype == dtype
            if ids.numel():
                assert ((rows - matrix[ids]).abs() <= room).all()

    def test_the_gradient_reaches_the_input(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """It is the product with the dequantized weight, and the weight gets none."""
        if not self.trainable:
            pytest.skip("declared: it cannot be trained on")
        weight = self.weight(config, shape, dtype, device)
        matrix = weight.dequantize(torch.float32)
        for leading in ((1,), (7,), (2, 3)):
            x = example(*leading, shape[1], dtype=dtype, device=device).requires_grad_()
            grad = example(*leading, shape[0], dtype=dtype, device=device, seed=3)
            weight(x).backward(grad)
            assert x.grad is not None
            assert (x.grad.shape, x.grad.dtype) == (x.shape, dtype)
            excess = product_excess(x.grad, grad, matrix.T)
            assert excess <= 1, f"gradient of {list(x.shape)}: {excess:.1f} times the rounding"
        assert all(p.grad is None for p in weight.parameters())

    def test_an_adapter_learns_on_top_of_its_host(self, config: Config, shape: Shape) -> None:
        """A few steps of gradient descent lower the loss and leave the weight alone."""
        if not self.trainable:
            pytest.skip("declared: it cannot be trained on")
        weight = self.weight(config, shape)
        before = snapshot(weight.storage())
        first = nn.Linear(shape[1], shape[1], bias=False)
        nn.init.eye_(first.weight)
        host = QuantizedLinear(weight)
        x, wanted = example(16, shape[1]), example(16, shape[0], seed=5)
        losses = []
        for _ in range(4):
            loss = (host(first(x)) - wanted).square().mean()
            (grad,) = torch.autograd.grad(loss, first.weight)
            with torch.no_grad():
                first.weight -= 0.05 * grad / grad.norm()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert not differences(weight.storage(), before)

    def test_it_is_compiled_without_a_graph_break(self, config: Config, device: str) -> None:
        """By `torch.compile(fullgraph=True)`, forward and backward, for several row counts."""
        if not self.compileable:
            pytest.skip("declared: it cannot be compiled")
        shape, dtype = self.shapes[0], self.dtypes[0]
        host = QuantizedLinear(self.weight(config, shape, dtype, device))
        check_compiled(host, shape, dtype, device, trainable=self.trainable)
