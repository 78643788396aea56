"""Write `registry/known.json`: which distribution provides which name.

The table lets an error say `pip install quantload-gptq` where the plugin is absent.
It is made from the entry points of `plugins/*/pyproject.toml` and from
`tools/planned.toml`, so that no method is written down in the core by hand.

    python tools/known_methods.py           # write
    python tools/known_methods.py --check   # exit 1 where the file is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import tomllib  # type: ignore[import-not-found]  # tools run on 3.11, mypy checks for 3.10

from quantload.registry.records import (
    CONFIG_FILES,
    FORMATS,
    GROUPS,
    KERNELS,
    QUANTIZERS,
    method_key,
)

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "core" / "src" / "quantload" / "registry" / "known.json"

Table = dict[str, dict[str, str]]


def main() -> int:
    """Write or check the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, report")
    text = as_text(known_names(ROOT))
    if not parser.parse_args().check:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET} is out of date: run python tools/known_methods.py\n")
    return 1


def as_text(table: Table) -> str:
    """The table as the file holds it."""
    return json.dumps(table, indent=2, sort_keys=True) + "\n"


def known_names(root: Path) -> Table:
    """Entry-point group -> name -> distribution, for the workspace at `root`.

    Methods, kernel packs and suffixes are written as `method_key` writes them. A
    config file may be claimed by several distributions; all of them are listed.

    Raises:
        SystemExit: two distributions claim another name.
    """
    table: Table = {}
    for distribution, group, name in sorted(_declared(root)):
        key = name
        if group in (QUANTIZERS, KERNELS, FORMATS):
            key = method_key(name) or sys.exit(f"{distribution}: {name!r} cannot name a method")
        names = table.setdefault(group, {})
        owners = names.get(key, "").split()
        if owners and distribution not in owners and group != CONFIG_FILES:
            sys.exit(f"{group} {name!r}: claimed by {owners[0]} and {distribution}")
        names[key] = " ".join(sorted({*owners, distribution}))
    return table


def _declared(root: Path) -> Iterator[tuple[str, str, str]]:
    """Distribution, group and name of everything the workspace declares or plans."""
    there = set()
    for file in sorted(root.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        there.add(project["name"])
        for group, entries in project.get("entry-points", {}).items():
            if group in GROUPS:
                yield from ((project["name"], group, name) for name in entries)
    planned = tomllib.loads((root / "tools" / "planned.toml").read_text(encoding="utf-8"))
    for distribution, groups in planned.items():
        if distribution not in there:
            for group, names in groups.items():
                yield from ((distribution, group, name) for name in names)


if __name__ == "__main__":
    sys.exit(main())
