"""Kernels that break a promise of `KernelSuite`."""

from __future__ import annotations

import time

import torch
from toy8.kernel import Toy8Kernel, toy8_linear

from broken import case
from quantload.plugin import Verdict

PRODUCTS = "test_products_are_those_of_the_reference"
DTYPES = "test_products_are_in_the_dtype_of_the_input"
THREADS = "test_many_threads_get_the_same_product"
GRADIENT = "test_the_gradient_reaches_the_input"
COMPILED = "test_it_is_compiled_without_a_graph_break"
CANONICAL = "test_the_canonical_storage_comes_back_exactly"
REPLACES = "test_an_arrangement_takes_the_place_of_the_storage"
THROUGH = "test_numbers_rows_and_shards_go_through_the_canonical_storage"
COPIES = "test_copies_casts_and_moves_keep_the_numbers"
REASON = "test_what_it_does_not_support_has_a_reason"
INSIST = "test_insisting_on_it_for_another_layout_is_refused"
RUNS = "test_every_kernel_runs_something_of_the_grid_here"
NAMES = "test_the_pack_names_kernels"


@case(PRODUCTS)
class WrongInTheTail(Toy8Kernel):
    def linear(self, weight, x):
        y = super().linear(weight, x)
        if x.ndim == 2 and x.shape[0] % 4:
            y = torch.cat([y[:-1], y[-1:] * 0], 0)
        return y


@case(PRODUCTS)
class OnlyMatrices(Toy8Kernel):
    def linear(self, weight, x):
        return torch.stack([super(OnlyMatrices, self).linear(weight, row) for row in x])


@case(PRODUCTS)
class RoundsThroughBfloat16(Toy8Kernel):
    def linear(self, weight, x):
        return super().linear(weight, x.bfloat16()).to(x.dtype)


@case(DTYPES)
class AnswersInTheComputeDtype(Toy8Kernel):
    def linear(self, weight, x):
        return super().linear(weight, x.to(weight.dtype))


_scratch: dict = {}


@case(THREADS)
class SharesABuffer(Toy8Kernel):
    def linear(self, weight, x):
        buffer = _scratch.setdefault((x.shape, x.dtype), torch.empty_like(x))
        buffer.copy_(x)
        time.sleep(0.002)
        return super().linear(weight, buffer)


@case(GRADIENT)
class NoGradient(Toy8Kernel):
    def linear(self, weight, x):
        return super().linear(weight, x.detach())


@torch.library.custom_op("broken::linear", mutates_args=())
def _without_a_fake(x: torch.Tensor, codes_t: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return toy8_linear(x, codes_t, scales)


@case(COMPILED)
class NoFake(Toy8Kernel):
    def linear(self, weight, x):
        return _without_a_fake(x, weight.codes_t, weight.scales)


@case(COMPILED)
class BreaksTheGraph(Toy8Kernel):
    def linear(self, weight, x):
        if x.sum().item() == 0.25:
            raise AssertionError
        return super().linear(weight, x)


@case(CANONICAL)
class LosesABit(Toy8Kernel):
    def restore(self, weight):
        return {"codes": weight.codes_t.T & ~1, "scales": weight.scales}


@case(CANONICAL)
class ShufflesInTheForward(Toy8Kernel):
    def linear(self, weight, x):
        y = super().linear(weight, x)
        with torch.no_grad():
            weight.codes_t.copy_(weight.codes_t.flip(0))
        return y


@case(REPLACES)
class KeepsBoth(Toy8Kernel):
    def arrange(self, weight):
        return {**super().arrange(weight), "codes": weight.codes}


@case(REPLACES)
class PreparesInTheFirstForward(Toy8Kernel):
    def linear(self, weight, x):
        weight.__dict__.setdefault("prepared", weight.codes_t.float())
        return super().linear(weight, x)


@case(THROUGH)
class RestoresInAnotherOrder(Toy8Kernel):
    def restore(self, weight):
        return {"codes": weight.codes_t.T.flip(0).contiguous(), "scales": weight.scales}


@case(COPIES)
class LeavesAHandle(Toy8Kernel):
    def arrange(self, weight):
        weight.__dict__["handle"] = lambda: None
        return super().arrange(weight)


@case(COPIES)
class OnlyTheDtypeItWasArrangedFor(Toy8Kernel):
    def arrange(self, weight):
        arranged = super().arrange(weight)
        return {**arranged, "scales": arranged["scales"].to(weight.dtype)}

    def restore(self, weight):
        restored = super().restore(weight)
        return {**restored, "scales": restored["scales"].float()}


@case(REASON)
class NoWithoutAReason(Toy8Kernel):
    def supports(self, spec):
        return Verdict(spec.layout == "toy8")


@case(REASON)
class TripsOverForeignLayouts(Toy8Kernel):
    def supports(self, spec):
        if spec.layout != "toy8":
            raise KeyError(spec.layout)
        return super().supports(spec)


@case(INSIST)
class TakesEverything(Toy8Kernel):
    def supports(self, spec):
        return Verdict.yes()

    def arrange(self, weight):
        return super().arrange(weight) if hasattr(weight, "codes") else None


@case(RUNS)
class RunsNothing(Toy8Kernel):
    def supports(self, spec):
        return Verdict.no("not today")


@case(NAMES)
class CalledReference(Toy8Kernel):
    name = "reference"
