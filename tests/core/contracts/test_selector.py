from __future__ import annotations

import pytest
import torch
from toy import toy_weight

import quantload
from quantload.errors import NoKernelError
from quantload.kernels import KernelSpec, prepare, select
from quantload.plugin import API, KernelPack


def test_without_a_pack_for_the_layout_the_reference_serves():
    weight = toy_weight()
    selection = prepare(weight)
    assert selection.chosen == "reference"
    assert weight.kernel is None


def test_the_highest_priority_that_can_is_chosen_and_repacks_the_weight(toy_pack):
    weight = toy_weight(6, 8)
    matrix = weight.dequantize()
    selection = prepare(weight)
    assert selection.chosen == "transposing"
    assert set(weight.storage()) == {"codes_t", "scales"}
    x = torch.randn(4, 8)
    torch.testing.assert_close(weight.linear(x), x @ matrix.T, rtol=1e-5, atol=1e-3)


def test_every_candidate_says_why_not(toy_pack):
    _, selection = select(KernelSpec.of(toy_weight(5, 8)))
    reasons = dict(selection.report)
    assert selection.chosen == "reference"
    assert "even" in reasons["transposing"].reason
    assert "even" in reasons["plain"].reason


def test_what_was_asked_for_is_never_replaced(toy_pack):
    weight = toy_weight(6, 8)
    assert prepare(weight, "plain").chosen == "plain"
    assert prepare(weight, "reference").chosen == "reference"
    assert weight.kernel is None
    with pytest.raises(NoKernelError, match="even"):
        prepare(toy_weight(5, 8), "transposing")
    with pytest.raises(NoKernelError, match="no-such-kernel"):
        prepare(weight, "no-such-kernel")


def test_the_environment_chooses_where_the_caller_does_not(toy_pack, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_KERNEL", "plain")
    assert prepare(toy_weight()).chosen == "plain"
    assert prepare(toy_weight(), "transposing").chosen == "transposing"


def test_a_pack_without_its_requirement_is_a_reason_and_no_error():
    pack = KernelPack(api=API, kernels=("nowhere:K",), requires=("no-such-package-xyz>=3",))
    with quantload.register("needy", pack):
        _, selection = select(KernelSpec.of(toy_weight()))
    assert "no-such-package-xyz" in dict(selection.report)["needy"].reason


def test_a_broken_pack_does_not_take_the_others_along(toy_pack, caplog):
    with quantload.register("broken", KernelPack(api=API, kernels=("nowhere_at_all:K",))):
        selection = prepare(toy_weight())
    assert selection.chosen == "transposing"
    assert "nowhere_at_all" in dict(selection.report)["broken"].reason
    assert "broken" in caplog.text


def test_asking_again_for_another_kernel_goes_through_the_canonical_storage(toy_pack):
    weight = toy_weight()
    matrix = weight.dequantize()
    for name in ("transposing", "plain", "transposing", "reference"):
        prepare(weight, name)
        assert torch.equal(weight.dequantize(), matrix)
