from __future__ import annotations

import pytest

from quantload.testing import fake_distribution


@pytest.fixture(autouse=True, scope="module")
def installed_toy8():
    """The toy method, installed as far as discovery can tell."""
    with fake_distribution(
        "quantload-toy8",
        version="2.1",
        quantizers={"toy8": "toy8.plugin:PLUGIN"},
        kernels={"toy8": "toy8.plugin:KERNELS"},
    ):
        yield
