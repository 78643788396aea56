"""The table of methods in README.md, made from the plugins that are installed.

`python scripts/method_table.py` prints it, with `--write` it goes into the README.
The tests compare the two.
"""

from __future__ import annotations

import sys
from pathlib import Path

from quantload.errors import QuantloadError
from quantload.quantizers.auto import AutoHfQuantizer
from quantload.quantizers.base import HfQuantizer
from quantload.registry.records import QUANTIZERS, EntryRecord
from quantload.registry.resolver import registry

README = Path(__file__).resolve().parents[1] / "README.md"
START, END = "<!-- --8<-- [start:methods] -->\n", "<!-- --8<-- [end:methods] -->\n"
TESTED = ("cpu", "cuda")
HEADS = ("method", "package", "runs on", "loads", "quantizes on load", "saves", "unpacks", "LoRA")


def aliases() -> dict[tuple[str, str], list[EntryRecord]]:
    """The names of each plugin, by the distribution and the descriptor they share."""
    found: dict[tuple[str, str], list[EntryRecord]] = {}
    for record in registry.records(QUANTIZERS):
        found.setdefault((record.distribution, record.value), []).append(record)
    return found


def row(records: list[EntryRecord]) -> list[str]:
    """One line of the table, from the descriptor and the quantizer class."""
    plugin = registry.resolve(records[0].name).plugin
    settings: dict[str, object] = dict(next(iter(plugin.demo.values()), {}))
    quantizer = AutoHfQuantizer.from_config({"quant_method": records[0].name, **settings})
    can_quantize = getattr(quantizer, "can_quantize", lambda: False)
    flags = (
        True,
        bool(can_quantize()),
        bool(quantizer.is_serializable()),
        type(quantizer).dequantize is not HfQuantizer.dequantize,
        quantizer.is_trainable,
    )
    names = " ".join(f"`{record.name}`" for record in records)
    ticks = ("yes" if flag else "no" for flag in flags)
    places = (name if name in TESTED else f"*{name}*" for name in plugin.devices)
    return [names, f"`{records[0].distribution}`", ", ".join(places), *ticks]


def render() -> str:
    """The whole table in Markdown."""
    lines = [list(HEADS), ["---"] * len(HEADS)]
    lines += [row(records) for _, records in sorted(aliases().items())]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def split(text: str) -> tuple[str, str, str]:
    """The README before the table, the table, and the README after it."""
    before, _, rest = text.partition(START)
    table, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{README} has no {START.strip()} ... {END.strip()}")
    return before + START, table, END + after


def main() -> int:
    try:
        table = render()
    except QuantloadError as error:
        print(error, file=sys.stderr)
        return 1
    if "--write" in sys.argv[1:]:
        before, _, after = split(README.read_text(encoding="utf-8"))
        README.write_text(before + table + after, encoding="utf-8")
    else:
        print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
