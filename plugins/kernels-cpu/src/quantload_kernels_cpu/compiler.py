"""From a module of LLVM to the address of a function, in this process."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from quantload_kernels_cpu import settings

logger = logging.getLogger("quantload.kernels.cpu")

_lock = threading.RLock()
_kept: list[Any] = []
_DIGEST = 32


def machine() -> Any:
    """LLVM's description of this processor; each engine takes one for itself."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=settings.features(), opt=3, jit=True
    )


def address(name: str, write: Callable[[Any, str], None]) -> int:
    """Address of the function that `write(module, name)` writes.

    The code is looked for on disk first, see `settings.cache_folder`. A name stands for one
    code on one processor with one version of this package.
    """
    with _lock:
        code = _object(name, write)
        target = machine()
        empty = llvm.parse_assembly(f'target triple = "{target.triple}"')
        engine = llvm.create_mcjit_compiler(empty, target)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _kept.append(engine)
        return int(engine.get_function_address(name))


def _object(name: str, write: Callable[[Any, str], None]) -> bytes:
    folder = settings.cache_folder()
    path = None if folder is None else folder / f"{name}-{_key()}.o"
    kept = None if path is None else _kept_code(path)
    if kept is not None:
        return kept
    code = _compiled(name, write)
    if path is not None:
        _keep(path, code)
    return code


def _compiled(name: str, write: Callable[[Any, str], None]) -> bytes:
    module, target = ir.Module(name), machine()
    module.triple, module.data_layout = target.triple, str(target.target_data)
    write(module, name)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(parsed, builder)
    code: bytes = target.emit_object(parsed)
    return code


def _kept_code(path: Path) -> bytes | None:
    """What `_keep` kept; None where there is nothing, or not what was written."""
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    code = kept[_DIGEST:]
    return code if hashlib.sha256(code).digest() == kept[:_DIGEST] else None


def _keep(path: Path, code: bytes) -> None:
    """Put code where the next process finds it; a folder that cannot be written to is no harm."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(code).digest() + code)
        Path(file.name).replace(path)
    except OSError as error:
        logger.debug("compiled code is not kept in %s: %s", path.parent, error)


@cache
def _key() -> str:
    """Of all that the code depends on beside its name: processor, LLVM, and this package."""
    digest = hashlib.sha256()
    version = (llvmlite.__version__, llvm.get_host_cpu_name(), settings.features())
    digest.update("|".join(version).encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]
