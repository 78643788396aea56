"""Factors of rotary frequencies as a damaged file may hold them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from quantload.errors import CheckpointError
from quantload_gguf.architectures.rope import rope_parameters


def facts(factors, base=10000.0, said=None):
    return SimpleNamespace(
        architecture="llama",
        number=lambda name, default=None: base if name == "rope.freq_base" else default,
        has=lambda name: name == "rope_freqs.weight",
        numbers=lambda name: factors,
        other=lambda key: said,
        whole=lambda name, default=None: 512,
    )


@pytest.mark.parametrize(
    ("factors", "says"),
    [
        ([], "rope_freqs.weight is empty"),
        ([1.0, float("nan")], "holds nan"),
        ([1.0, float("inf")], "holds inf"),
        ([1.0, 0.0], "holds 0.0"),
        ([1.0, -2.0], "holds -2.0"),
    ],
)
def test_factors_that_divide_nothing_are_refused(factors, says):
    with pytest.raises(CheckpointError, match=says):
        rope_parameters(facts(factors))


@pytest.mark.parametrize("said", [None, 1, float("nan"), float("inf"), 0])
@pytest.mark.parametrize("base", [1.0, 10000.0, 1e308])
def test_any_others_are_read(base, said):
    found = rope_parameters(facts([1.0, 2.0, 4.0, 8.0, 8.0], base, said))
    assert found["rope_theta"] == base
    assert found["rope_type"] in ("llama3", "longrope")
