"""Many threads at once, while the registry is being changed."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from stub_plugin import PLUGIN, plugin_source

import quantload
from quantload.registry import registry
from quantload.testing import fake_distribution


@pytest.fixture
def quick_switching():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_resolving_while_refreshing(quick_switching):
    names = [f"method{i}" for i in range(8)]
    modules = {f"toy_threads.m{i}": plugin_source(name) for i, name in enumerate(names)}
    quantizers = {name: f"toy_threads.m{i}:PLUGIN" for i, name in enumerate(names)}
    stop = threading.Event()

    def refreshing():
        while not stop.is_set():
            registry.refresh()

    def resolving(n):
        name = names[n % len(names)]
        assert registry.resolve(name).plugin.summary == name
        config = quantload.AutoQuantizationConfig.from_dict({"quant_method": name, "bits": 8})
        assert config.bits == 8

    with fake_distribution("dist-a", quantizers=quantizers, modules=modules):
        thread = threading.Thread(target=refreshing)
        thread.start()
        try:
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(resolving, range(160)))
        finally:
            stop.set()
            thread.join()


def test_one_module_is_executed_once_however_many_ask():
    source = "import quantload_counter\nquantload_counter.count += 1\n" + plugin_source("one")
    counter = type(sys)("quantload_counter")
    counter.count = 0
    sys.modules["quantload_counter"] = counter
    barrier = threading.Barrier(16)

    def resolving(_):
        barrier.wait()
        return registry.resolve("stub").plugin

    with (
        fake_distribution(
            "dist-a", quantizers={"stub": "toy_once.p:PLUGIN"}, modules={"toy_once.p": source}
        ),
        ThreadPoolExecutor(16) as pool,
    ):
        found = list(pool.map(resolving, range(16)))
    del sys.modules["quantload_counter"]
    assert counter.count == 1
    assert all(plugin is found[0] for plugin in found)


def test_registering_and_undoing_from_many_threads(quick_switching):
    def scoped(n):
        name = f"scoped{n}"
        with quantload.register(name, PLUGIN):
            assert registry.resolve(name).plugin is PLUGIN
        assert not quantload.AutoHfQuantizer.supports_quant_method({"quant_method": name})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(scoped, range(100)))
    assert not [r for r in registry.records("quantload.quantizers") if r.name.startswith("scoped")]
