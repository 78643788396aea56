"""`fake_distribution`: entry points of a package that nobody installed."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantload.registry.api import refresh
from quantload.registry.records import CONFIG_FILES, CONFIG_KEYS, EXPORTS, KERNELS, QUANTIZERS

_counter = itertools.count()


@dataclass(frozen=True)
class FakeDistribution:
    """What `fake_distribution` made.

    Attributes:
        name: of the distribution.
        version: of the distribution.
        path: the folder that is on `sys.path`; give it to a subprocess in PYTHONPATH.
        metadata: its `*.dist-info` folder.
    """

    name: str
    version: str
    path: Path
    metadata: Path


@contextlib.contextmanager
def fake_distribution(
    name: str = "quantload-fake",
    *,
    version: str = "1.0",
    quantizers: Mapping[str, object] | None = None,
    kernels: Mapping[str, object] | None = None,
    exports: Mapping[str, object] | None = None,
    config_keys: Mapping[str, str] | None = None,
    config_files: Mapping[str, str] | None = None,
    entry_points: Mapping[str, Mapping[str, object]] | None = None,
    requires: tuple[str, ...] = (),
    modules: Mapping[str, str] | None = None,
    files: Mapping[str, str | bytes | None] | None = None,
    path: Path | None = None,
) -> Iterator[FakeDistribution]:
    """An installed distribution as far as discovery can tell, for the time of a `with` block.

    A folder with importable modules and a `*.dist-info` is put in front of
    `sys.path`. On leaving, the folder, the modules imported from it and what the
    registry knows of it are gone.

    Args:
        name: name of the distribution.
        version: its version.
        quantizers: `quant_method` -> `"module:attribute"`, or the descriptor itself.
        kernels: kernel pack -> the same.
        exports: name -> the same.
        config_keys: key of a config without `quant_method` -> method.
        config_files: file name -> method.
        entry_points: further groups, by their full names.
        requires: `Requires-Dist` lines.
        modules: dotted module name -> source text; packages are made as needed.
        files: file name inside the `*.dist-info` -> contents, over those written
            from the above ("METADATA", "entry_points.txt"); None leaves it out.
        path: an existing folder to use and leave behind; a temporary one where None.

    Yields:
        Where everything lies.
    """
    groups: dict[str, Mapping[str, object]] = {
        QUANTIZERS: quantizers or {},
        KERNELS: kernels or {},
        EXPORTS: exports or {},
        CONFIG_KEYS: config_keys or {},
        CONFIG_FILES: config_files or {},
        **(entry_points or {}),
    }
    with contextlib.ExitStack() as undo:
        folder = path or Path(tempfile.mkdtemp(prefix="quantload-fake-"))
        if path is None:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
        undo.callback(refresh)
        undo.callback(_forget_modules, folder)
        metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        contents: dict[str, str | bytes | None] = {
            "METADATA": _metadata(name, version, requires),
            "entry_points.txt": _entry_points(groups, undo),
            **(files or {}),
        }
        for file, text in contents.items():
            if text is not None:
                _write(metadata / file, text)
        for module, source in (modules or {}).items():
            _write_module(folder, module, source)
        sys.path.insert(0, str(folder))
        undo.callback(_remove_from_path, str(folder))
        refresh()
        yield FakeDistribution(name, version, folder, metadata)


def _metadata(name: str, version: str, requires: tuple[str, ...]) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    return "\n".join([*lines, *(f"Requires-Dist: {line}" for line in requires)]) + "\n"


def _entry_points(groups: Mapping[str, Mapping[str, object]], undo: contextlib.ExitStack) -> str:
    lines = []
    for group, entries in groups.items():
        lines.append(f"[{group}]")
        for key, value in entries.items():
            target = value if isinstance(value, str) else _module_holding(value, undo)
            lines.append(f"{key} = {target}")
    return "\n".join(lines) + "\n"


def _module_holding(value: object, undo: contextlib.ExitStack) -> str:
    name = f"_quantload_fake_{next(_counter)}"
    module = types.ModuleType(name)
    module.__dict__["VALUE"] = value
    sys.modules[name] = module
    undo.callback(sys.modules.pop, name, None)
    return f"{name}:VALUE"


def _write_module(folder: Path, module: str, source: str) -> None:
    *packages, leaf = module.split(".")
    where = folder
    for package in packages:
        where /= package
        if not (where / "__init__.py").exists():
            _write(where / "__init__.py", "")
    package_itself = where / leaf / "__init__.py"
    _write(package_itself if package_itself.exists() else where / f"{leaf}.py", source)


def _write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def _remove_from_path(folder: str) -> None:
    with contextlib.suppress(ValueError):  # a test may have taken it off itself
        sys.path.remove(folder)


def _forget_modules(folder: Path) -> None:
    """Drop what was imported from the folder, so that the next fake starts afresh."""
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if isinstance(origin, str) and Path(origin).is_relative_to(folder):
            del sys.modules[name]
