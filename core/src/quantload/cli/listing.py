"""`quantload list`: what is installed and whether it can serve, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantload.cli.answer import clean
from quantload.registry.known import known
from quantload.registry.records import FORMATS, KERNELS, QUANTIZERS, method_key
from quantload.registry.status import FAULTS, PluginStatus, plugin_statuses

if TYPE_CHECKING:
    from rich.console import Console

TITLES = {QUANTIZERS: "Methods", KERNELS: "Kernel packs", FORMATS: "File formats"}
STYLES = {"ready": "green", "missing": "yellow", "disabled": "dim", "not chosen": "dim"}


@dataclass(frozen=True)
class Listing:
    """Every record with its status, and what could be installed.

    Attributes:
        statuses: in the order of the groups.
        absent: group -> name -> distribution, of what is known and not installed.
    """

    statuses: list[PluginStatus]
    absent: dict[str, dict[str, str]]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is broken, incompatible or in conflict."""
        return tuple(s.reason for s in self.statuses if s.status in FAULTS)

    def as_json(self) -> dict[str, object]:
        """Every record by itself, aliases too."""
        return {
            "plugins": [as_json(status) for status in self.statuses],
            "not_installed": [
                {
                    "group": group,
                    "name": name,
                    "distribution": distribution,
                    "fix": f"pip install {distribution}",
                }
                for group, names in self.absent.items()
                for name, distribution in names.items()
            ],
        }


def as_json(status: PluginStatus) -> dict[str, object]:
    """One record for programs."""
    return {
        "group": status.record.group,
        "name": status.record.name,
        "distribution": status.record.distribution,
        "version": status.record.version,
        "target": status.record.value,
        "location": status.record.location,
        "status": status.status,
        "reason": status.reason,
        "fix": status.fix,
        "devices": list(status.devices),
        "summary": status.summary,
    }


def gather() -> Listing:
    """Look at every record; descriptors are imported, nothing else is."""
    statuses = plugin_statuses(tuple(TITLES))
    there = {(s.record.group, method_key(s.record.name)) for s in statuses}
    absent = {
        group: {n: d for n, d in known().get(group, {}).items() if (group, n) not in there}
        for group in TITLES
    }
    return Listing(statuses, {group: names for group, names in absent.items() if names})


def render(listing: Listing, console: Console) -> None:
    """Print a table per group; aliases share the line of what they stand for."""
    from rich.table import Table
    from rich.text import Text

    for group, title in TITLES.items():
        rows = _rows([s for s in listing.statuses if s.record.group == group])
        if rows:
            table = Table(title=title, title_justify="left", title_style="bold")
            for head in ("name", "distribution", "version", "status", "devices", "remarks"):
                table.add_column(head, overflow="fold")
            for names, status in rows:
                style = STYLES.get(status.status, "red")
                remark = status.reason or status.summary
                if status.fix:
                    remark = f"{remark}\nmend it: {status.fix}"
                table.add_row(
                    Text(clean("\n".join(names))),
                    Text(clean(status.record.distribution)),
                    Text(clean(status.record.version)),
                    Text(status.status, style=style),
                    Text(clean(" ".join(status.devices))),
                    Text(clean(remark)),
                )
            console.print(table)
    if not listing.statuses:
        console.print("No plugin is installed.")
    for group, known_names in listing.absent.items():
        for distribution in sorted(set(known_names.values())):
            provided = ", ".join(n for n, d in known_names.items() if d == distribution)
            console.print(
                f"not installed: {TITLES[group].lower()} {provided}: pip install {distribution}",
                style="dim",
                markup=False,
            )


def _rows(statuses: list[PluginStatus]) -> list[tuple[list[str], PluginStatus]]:
    rows: dict[tuple[str, ...], tuple[list[str], PluginStatus]] = {}
    for status in statuses:
        record = status.record
        # a fault is told of every name by itself, for its reason names it
        own = record.name if status.status in FAULTS else ""
        key = (record.distribution, record.value, status.status, own)
        rows.setdefault(key, ([], status))[0].append(record.name)
    return list(rows.values())
