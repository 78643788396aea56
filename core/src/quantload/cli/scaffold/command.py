"""What `quantload new-plugin` does, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantload.cli.scaffold.naming import Names, names_for
from quantload.cli.scaffold.writing import contents, write

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class NewPlugin:
    """A package that was written.

    Attributes:
        names: of the package and what is in it.
        folder: where it is.
        paths: its files, relative to the folder.
    """

    names: Names
    folder: Path
    paths: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """None: it is there."""
        return ()

    def as_json(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "method": self.names.method,
            "distribution": self.names.distribution,
            "package": self.names.package,
            "folder": str(self.folder),
            "files": list(self.paths),
        }


def gather(method: str, into: Path) -> NewPlugin:
    """Write the package.

    Args:
        method: name of the method.
        into: the folder in which the package's folder is made.

    Raises:
        ConfigError: the name is no name, or the folder is there already.
        PluginConflictError: the method exists.
    """
    names = names_for(method)
    texts = contents(names)
    folder = into / names.distribution
    write(folder, texts)
    return NewPlugin(names, folder, tuple(sorted(texts)))


def render(made: NewPlugin, console: Console) -> None:
    """Say what there is, and what comes next."""
    lines = [
        f"{made.folder}",
        *(f"  {path}" for path in made.paths),
        "",
        "Its tests pass as they stand:",
        f"  cd {made.folder}",
        '  python -m pip install -e ".[test]" && python -m pytest',
        "",
        "README.md there says which file to change first, and how to publish.",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
