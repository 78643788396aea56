"""`quantload run`: a script, as Python runs it, with the bridge into `transformers` enabled."""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from quantload.errors import ConfigError
from quantload.integrations.transformers.bridge import enable_transformers


class Program(BaseException):
    """A script or module to run as `__main__` once the command line has been dealt with.

    Raised by the command, so that what the script raises passes through no other hands.
    The bridge is enabled from now on, in this process and in those that `multiprocessing`
    starts from it; another program that the script starts has to be started this way too.

    Args:
        path: of the script (or a folder or zip file with a `__main__.py`, or `-` for
            standard input), or name of the module.
        arguments: its command line.
        module: whether `path` names a module, as for `python -m`.
        only: see `enable_transformers`.
        keep: see `enable_transformers`.

    Raises:
        ConfigError: there is no such script or module, or nothing in the folder that could run.
        MissingRequirementError, UnknownMethodError: see `enable_transformers`.
    """

    def __init__(
        self,
        path: str,
        arguments: Sequence[str],
        *,
        module: bool = False,
        only: Sequence[str] | None = None,
        keep: Sequence[str] | None = None,
    ) -> None:
        super().__init__(path)
        if not module and path != "-" and not Path(path).exists():
            raise ConfigError(f"{path}: no such script", value=path)
        enable_transformers(only or None, keep or None)
        _Inherited(only or None, keep or None).hand_down()
        self._run: Callable[[], None]
        if module:
            _begin_path_with(os.getcwd())  # noqa: PTH109  text, as `python -m` has it there
            spec = _module(path)
            self._run = functools.partial(run_found, spec)
            path = str(spec.origin)
        elif path == "-":
            _begin_path_with("")
            self._run = run_standard_input
        elif (main := PathFinder.find_spec("__main__", [path])) is not None:  # a folder, a zip
            _begin_path_with(str(Path(path).absolute()))
            self._run = functools.partial(run_found, main)
        elif Path(path).is_dir():
            raise ConfigError(f"{path}: there is no __main__.py in it", value=path)
        else:
            _begin_path_with(str(Path(path).resolve().parent))
            self._run = functools.partial(run_file, str(Path(path).absolute()))
        self._argv = [path, *arguments]

    def start(self) -> None:
        """Run it; what it raises, and its exit status, is its own."""
        sys.argv = self._argv
        self._run()


class _Inherited:
    """Enables the bridge wherever it is unpickled.

    `multiprocessing` hands the settings of a process to those that it starts, in any way of
    starting them, so that a copy in them arrives before anything of the child's own runs.
    """

    def __init__(self, only: Sequence[str] | None, keep: Sequence[str] | None) -> None:
        self._arguments = only, keep

    def hand_down(self) -> None:
        settings: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # private, and the same since Python 2.6
        settings["quantload"] = self

    def __reduce__(self) -> tuple[Callable[..., _Inherited], tuple[Any, ...]]:
        return _inherit, self._arguments


def _inherit(only: Sequence[str] | None, keep: Sequence[str] | None) -> _Inherited:
    enable_transformers(only, keep)
    return _Inherited(only, keep)


def _begin_path_with(entry: str) -> None:
    """As Python begins it for a script; what is there now is for the command `quantload`."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = entry


def _module(name: str) -> ModuleSpec:
    """The module itself, or the `__main__` of a package.

    Raises:
        ConfigError: there is none.
    """
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not error.name or not name.startswith(error.name):
            raise  # a package that is there, and imports something that is not
        spec = None
    if spec is None or not spec.has_location:  # nothing, or built in
        raise ConfigError(f"no module named {name}", value=name)
    return spec


def run_standard_input() -> None:
    """Run what comes from standard input as `__main__`."""
    run_code(compile(sys.stdin.buffer.read(), "<stdin>", "exec"))


def run_file(path: str) -> None:
    """Run a Python file as `__main__`."""
    loader = SourceFileLoader("__main__", path)
    code = loader.source_to_code(loader.get_data(path), path)
    run_code(code, __file__=path, __loader__=loader)


def run_found(spec: ModuleSpec) -> None:
    """Run a module that was found as `__main__`."""
    loader: Any = spec.loader  # of a file or a zip: both know `get_code`
    run_code(loader.get_code(spec.name), __file__=spec.origin, __loader__=loader, __spec__=spec)


def run_code(code: CodeType, **names: Any) -> None:
    """Run code as the module `__main__`, which stays that until the process ends."""
    main = ModuleType("__main__")
    spec = names.get("__spec__")
    vars(main).update(names, __package__=spec.parent if spec else None)
    # By the second name `multiprocessing` knows what a child it spawned calls `__main__`.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    exec(code, vars(main))  # noqa: S102  the script that the user asked to be run
