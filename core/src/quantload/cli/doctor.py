"""`quantload doctor`: this machine, every plugin, and the command that mends what is wrong."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantload import env
from quantload.cli import machine
from quantload.cli.answer import clean, size
from quantload.cli.listing import as_json as status_as_json
from quantload.errors import ConfigError, QuantloadError
from quantload.registry import registry
from quantload.registry.descriptors import KINDS
from quantload.registry.records import QUANTIZERS, WHAT
from quantload.registry.requirements import check_requirement
from quantload.registry.status import PluginStatus, plugin_statuses
from quantload.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from quantload.cli.machine import Device


@dataclass(frozen=True)
class Finding:
    """Something that was examined.

    Attributes:
        what: what was examined.
        verdict: whether it is fine.
        wished: it is as it is because somebody said so: nothing to mend.
    """

    what: str
    verdict: Verdict
    wished: bool = False

    def as_json(self) -> dict[str, object]:
        """For programs."""
        verdict = self.verdict
        return {"what": self.what, "ok": verdict.ok, "reason": verdict.reason, "fix": verdict.fix}


@dataclass(frozen=True)
class Plugin:
    """A plugin that was examined.

    Attributes:
        status: what listing it says.
        finding: whether it can serve.
        needs: its requirements, one by one.
    """

    status: PluginStatus
    finding: Finding
    needs: tuple[Finding, ...]

    def as_json(self) -> dict[str, object]:
        """For programs."""
        needs = [need.as_json() for need in self.needs]
        return {**status_as_json(self.status), **self.finding.as_json(), "needs": needs}


@dataclass(frozen=True)
class Examination:
    """All that was found.

    Attributes:
        environment: label -> version or path.
        devices: what torch can use; empty where torch does not work.
        core: the core's own requirements.
        plugins: every plugin; aliases once.
        kernels: device type -> the kernels there are for it, best first.
    """

    environment: dict[str, str]
    devices: list[Device]
    core: list[Finding]
    plugins: list[Plugin]
    kernels: dict[str, list[str]] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """Everything that was examined, the core first."""
        return [*self.core, *(plugin.finding for plugin in self.plugins)]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not fine and nobody wished for."""
        return tuple(
            f"{f.what}: {f.verdict.reason}" for f in self.findings if not f.verdict and not f.wished
        )

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "environment": self.environment,
            "devices": [device.as_json() for device in self.devices],
            "core": [finding.as_json() for finding in self.core],
            "plugins": [plugin.as_json() for plugin in self.plugins],
            "kernels": self.kernels,
            "variables": [
                {"name": v.name, "value": v.get(), "meaning": v.meaning} for v in env.TABLE
            ],
            "tested": machine.TESTED,
            "untested": list(machine.UNTESTED),
            "problems": list(self.problems),
        }


def gather() -> Examination:
    """Examine everything; imports torch, and every plugin's classes."""
    torch_works = machine.torch_works()
    core = [Finding("torch can be imported", torch_works), *_core_requirements()]
    devices = machine.devices() if torch_works else []
    kernels = _kernels({device.type for device in devices})
    return Examination(machine.environment(), devices, core, list(_plugins(torch_works)), kernels)


def _core_requirements() -> Iterator[Finding]:
    try:
        declared = importlib.metadata.requires("quantload") or []
    except importlib.metadata.PackageNotFoundError:
        fix = "pip install quantload"
        yield Finding("quantload", Verdict.no("runs from a folder, it is not installed", fix))
        return
    yield from _requirements(declared)


def _requirements(declared: Iterable[str]) -> Iterator[Finding]:
    for text in dict.fromkeys(declared):
        if "extra ==" not in text:
            yield Finding(f"needs {text}", check_requirement(text))


def _plugins(torch_works: Verdict) -> Iterator[Plugin]:
    seen = set()
    for status in plugin_statuses():
        record = status.record
        key = (record.group, record.distribution, record.value, status.status)
        if key in seen:
            continue
        seen.add(key)
        own = record.requires
        if status.status in ("ready", "missing"):
            own = (*own, *registry.descriptor(record, KINDS[record.group]).requires)
        needs = tuple(_requirements(own))
        verdict = Verdict.no(status.reason, status.fix)
        if status.status == "ready":
            verdict = Verdict.all(need.verdict for need in needs)
            if verdict and torch_works and record.group == QUANTIZERS:
                verdict = _availability(status)
        wished = status.status in ("disabled", "not chosen")
        label = f"{WHAT[record.group]} {record.name}"
        yield Plugin(status, Finding(label, verdict, wished), needs)


def _availability(status: PluginStatus) -> Verdict:
    """What the quantizer itself says, made with the defaults of its config."""
    from quantload.quantizers.auto import AutoHfQuantizer

    record = status.record
    try:
        quantizer = AutoHfQuantizer.from_config(
            {"quant_method": record.name}, provider=record.distribution
        )
        return quantizer.is_available()
    except ConfigError:
        # it has no config without settings; its classes can be imported, its packages are there
        return registry.resolve(record.name, record.distribution).verdict()
    except QuantloadError as error:
        return Verdict.no(str(error), status.fix)


def _kernels(device_types: set[str]) -> dict[str, list[str]]:
    if not device_types:
        return {}
    from quantload.kernels.selector import candidates

    return {
        device_type: [kernel.name for kernel in candidates(device_type)[0]]
        for device_type in sorted(device_types)
    }


def render(found: Examination, console: Console) -> None:
    """Print it."""
    from rich.table import Table
    from rich.text import Text

    def table(title: str, *heads: str) -> Table:
        made = Table(title=title, title_justify="left", title_style="bold")
        for head in heads:
            made.add_column(head, overflow="fold")
        return made

    facts = table("Environment", "", "")
    for label, value in found.environment.items():
        facts.add_row(label, Text(clean(value)))
    console.print(facts)
    places = table("Devices", "device", "name", "capability", "memory (free)", "tested")
    for device in found.devices:
        memory = f"{size(device.total_bytes)} ({size(device.free_bytes)})"
        places.add_row(
            device.label,
            Text(clean(device.name)),
            device.capability,
            memory if device.total_bytes else "",
            "yes" if device.tested else "no",
        )
    console.print(places)
    checks = table("Findings", "what", "who", "fine", "remarks")
    owners = {id(plugin.finding): plugin for plugin in found.plugins}
    for finding in found.findings:
        verdict, plugin = finding.verdict, owners.get(id(finding))
        word, style = ("yes", "green") if verdict else ("no", "red")
        if finding.wished:
            word, style = "as asked", "dim"
        lines = [verdict.reason, f"mend it: {verdict.fix}" if verdict.fix else ""]
        if plugin is not None and verdict:
            lines.append(", ".join(need.what for need in plugin.needs))
        checks.add_row(
            Text(clean(finding.what)),
            Text(clean(plugin.status.record.provider if plugin else "quantload")),
            Text(word, style=style),
            Text(clean("\n".join(filter(None, lines)))),
        )
    console.print(checks)
    for device_type, names in found.kernels.items():
        console.print(f"kernels for {device_type}: {', '.join([*names, 'reference'])}")
    variables = table("Environment variables", "name", "value", "meaning")
    for variable in env.TABLE:
        variables.add_row(variable.name, Text(clean(variable.get())), Text(variable.meaning))
    console.print(variables)
    console.print(f"tested: {machine.TESTED}")
    for line in machine.UNTESTED:
        console.print(f"untested: {line}")
    count = len(found.problems)
    console.print(f"{count} problem{'' if count == 1 else 's'} found" if count else "all is well")
