"""`quantload info` for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from quantload.cli.answer import clean, count, size

if TYPE_CHECKING:
    from rich.console import Console

    from quantload.cli.info import Info
    from quantload.cli.packed import Group


def render(info: Info, console: Console) -> None:
    """Print what was found out."""
    from rich.table import Table
    from rich.text import Text

    facts = Table(show_header=False)
    facts.add_column()
    facts.add_column(overflow="fold")
    for label, value in _facts(info):
        facts.add_row(label, Text(clean(value)))
    console.print(facts)
    table = Table(title="Tensors", title_justify="left", title_style="bold")
    for head in ("what", "how many", "parameters", "on disk", "in memory"):
        table.add_column(head, justify="left" if head == "what" else "right", overflow="fold")
    for group in info.groups:
        table.add_row(
            Text(clean(_name(group))),
            str(group.modules),
            count(group.parameters) if group.parameters else "?",
            size(group.disk_bytes),
            size(group.memory_bytes),
        )
    for dtype, (number, nbytes) in info.dtypes.items():
        table.add_row(
            Text(clean(f"not packed, {dtype}")), str(number), "", size(nbytes), size(nbytes)
        )
    console.print(table)
    for line in _kernel_lines(info):
        console.print(line, markup=False)
    for need in info.needs:
        verdict = need.verdict
        mark, style = ("ok", "green") if verdict else ("no", "red")
        told = "".join(
            [
                f": {verdict.reason}" if verdict.reason else "",
                f" (mend it: {verdict.fix})" if verdict.fix else "",
            ]
        )
        console.print(Text(f"{mark} ", style=style) + Text(clean(f"{need.what}{told}")))


def _facts(info: Info) -> list[tuple[str, str]]:
    files = sum(info.files.values())
    parameters = (
        "not known without the model's class" if info.parameters is None else count(info.parameters)
    )
    found = [
        ("checkpoint", info.source),
        ("format", f"{info.format}, {len(info.files)} file{'s' if len(info.files) != 1 else ''}"),
        (
            "architecture",
            f"{info.architecture or 'not named'} ({info.model_type or 'no model type'})",
        ),
        (
            "method",
            f"{info.method} ({info.provider or 'not installed'})"
            if info.method
            else "none: a float checkpoint",
        ),
        ("parameters", parameters),
        ("on disk", f"{size(files)} ({info.tensors} tensors, {size(info.tensor_bytes)})"),
        ("in memory", size(info.memory_bytes)),
    ]
    if info.config:
        found.append(("config", json.dumps(info.config, sort_keys=True, default=str)))
    return found


def _name(group: Group) -> str:
    params = ", ".join(
        f"{key}={value}"
        for key, value in sorted(group.params.items())
        if isinstance(value, (str, int, float, bool))
    )
    return (
        f"packed {group.kind}"
        + (f" {group.layout}" if group.layout else "")
        + (f" ({params})" if params else "")
    )


def _kernel_lines(info: Info) -> list[str]:
    lines = []
    for group in info.groups:
        for device, chosen in group.kernels.items():
            for name, choice in chosen.items():
                why = "; ".join(
                    f"not {other}: {reason}" for other, ok, reason in choice.report if not ok
                )
                lines.append(
                    clean(f"kernel on {device} for {choice.modules} {_name(group)}: {name}")
                    + (clean(f" ({why})") if why else "")
                )
    return lines
