"""The files of a new package, written whole or not at all."""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from quantload._version import __version__
from quantload.cli.scaffold.naming import Names
from quantload.errors import ConfigError
from quantload.plugin import API

# template -> where its text goes; `{package}` is the package's folder
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "ci.yml": ".github/workflows/ci.yml",
    "init.py": "src/{package}/__init__.py",
    "plugin.py": "src/{package}/plugin.py",
    "config.py": "src/{package}/config.py",
    "layout.py": "src/{package}/layout.py",
    "quantizer.py": "src/{package}/quantizer.py",
    "conftest.py": "tests/conftest.py",
    "test_conformance.py": "tests/test_conformance.py",
    "test_on_gpu.py": "tests/test_on_gpu.py",
}
_BLANK = re.compile(r"__[A-Z_]+?__")


def contents(names: Names) -> dict[str, str]:
    """Path inside the package -> text, of every file."""
    core, following = _versions()
    values = {
        "__METHOD__": names.method,
        "__DISTRIBUTION__": names.distribution,
        "__PACKAGE__": names.package,
        "__CLASS__": names.prefix,
        "__CORE__": core,
        "__NEXT_CORE__": following,
        "__API__": str(API),
    }
    folder = files("quantload.cli.scaffold").joinpath("templates")
    made = {}
    for template, path in FILES.items():
        text = folder.joinpath(f"{template}.tmpl").read_text(encoding="utf-8")
        filled = _BLANK.sub(lambda match: values[match.group()], text)
        made[path.format(package=names.package)] = filled
    made[f"src/{names.package}/py.typed"] = ""
    return made


def write(target: Path, texts: dict[str, str]) -> None:
    """Make a folder with these files: all of them or, when anything fails, none.

    Raises:
        ConfigError: there is something at `target`, or the folder around it is missing or
            cannot be written to.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(
            f"{target} exists already; nothing was written. Move it away, or use --into"
        )
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent} is no folder; make it first, or use --into")
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ConfigError(f"{target.parent} cannot be written to: {error.strerror}") from error
    try:
        for path, text in texts.items():
            file = made / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
        made.chmod(0o755)  # a temporary folder is its owner's alone
        made.rename(target)
    except OSError as error:
        raise ConfigError(f"{target} could not be written: {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError):  # it has its new name
            shutil.rmtree(made)


def _versions() -> tuple[str, str]:
    """The minor version of this core, and the next one."""
    major, minor = (int(part) for part in __version__.split(".")[:2])
    return f"{major}.{minor}", f"{major}.{minor + 1}"
