"""Choosing a kernel for a weight, with every reason on the way."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from quantload import env
from quantload.errors import NoKernelError, PluginError, PluginLoadError
from quantload.kernels.contract import Kernel, KernelSpec
from quantload.plugin import KernelPack
from quantload.registry import registry
from quantload.registry.records import KERNELS, EntryRecord
from quantload.registry.requirements import check_requirements
from quantload.registry.resolver import Resolved, allowed
from quantload.verdict import Verdict

if TYPE_CHECKING:
    from quantload.weights.packed import PackedWeight

logger = logging.getLogger(__name__)

REFERENCE = "reference"
_repacking = threading.RLock()


@dataclass(frozen=True)
class Selection:
    """What was chosen and why.

    Attributes:
        asked: the kernel asked for by name, or None.
        chosen: name of the chosen kernel; "reference" is plain torch.
        report: a verdict per candidate, in the order in which they were tried.
    """

    asked: str | None
    chosen: str
    report: tuple[tuple[str, Verdict], ...]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {verdict}" for name, verdict in self.report)


def candidates(device_type: str) -> tuple[list[Kernel], list[tuple[str, Verdict]]]:
    """Kernels of the installed packs for a device type, and the packs that cannot serve."""
    kernels, refused = _candidates(
        device_type, registry.generation, env.ALLOW.get(), env.DISABLE.get()
    )
    return list(kernels), list(refused)


@lru_cache(maxsize=16)
def _candidates(
    device_type: str,
    *state: object,  # noqa: ARG001  the key of the cache
) -> tuple[list[Kernel], list[tuple[str, Verdict]]]:
    """`candidates`, once for each `state` of the registry: a model asks for every layer."""
    kernels: list[Kernel] = []
    refused: list[tuple[str, Verdict]] = []
    for record in registry.records(KERNELS):
        if not allowed(record):
            refused.append((record.name, Verdict.no(f"{record.provider} is disabled")))
            continue
        try:
            pack = registry.descriptor(record, KernelPack)
            kernels.extend(_kernels_of(record, pack, device_type, refused))
        except PluginError as error:
            refused.append((record.name, Verdict.no(str(error))))
            logger.warning("the kernel pack %s is left out: %s", record.name, error)
    return sorted(kernels, key=lambda k: (-k.priority, k.name)), refused


def _kernels_of(
    record: EntryRecord, pack: KernelPack, device_type: str, refused: list[tuple[str, Verdict]]
) -> list[Kernel]:
    if device_type not in pack.devices:
        refused.append((record.name, Verdict.no(f"has no kernels for {device_type}")))
        return []
    met = check_requirements(pack.requires)
    if not met:
        refused.append((record.name, met))
        return []
    found = Resolved(record, pack)
    kernels = [found.load(target)() for target in pack.kernels]
    for kernel in kernels:
        if not isinstance(kernel, Kernel):
            raise PluginLoadError(f"{record.provider}: {kernel!r} is not a Kernel")
    return kernels


def select(spec: KernelSpec, kernel: str | None = None) -> tuple[Kernel | None, Selection]:
    """The kernel for a weight; None stands for the plain-torch reference.

    Args:
        spec: what is asked.
        kernel: a name to insist on ("reference" is one); the environment variable
            QUANTLOAD_KERNEL counts where this is None.

    Raises:
        NoKernelError: the kernel asked for cannot run it; all reasons are listed.
    """
    asked = kernel or env.KERNEL.get() or None
    if asked == REFERENCE:
        return None, Selection(asked, REFERENCE, ((REFERENCE, Verdict.yes("asked for")),))
    kernels, report = candidates(spec.device.type)
    chosen: Kernel | None = None
    for candidate in kernels:
        if asked is not None and candidate.name != asked:
            continue
        verdict = candidate.supports(spec)
        report.append((candidate.name, verdict))
        if verdict:
            chosen = candidate
            break
    if chosen is None and asked is not None:
        lines = "\n".join(f"  {name}: {verdict}" for name, verdict in report) or "  none installed"
        raise NoKernelError(
            f"the kernel {asked!r} cannot run a {spec.layout} weight of shape {spec.shape} in "
            f"{spec.dtype} on {spec.device}:\n{lines}"
        )
    if chosen is None:
        report.append((REFERENCE, Verdict.yes("always there")))
    return chosen, Selection(asked, chosen.name if chosen else REFERENCE, tuple(report))


def prepare(weight: PackedWeight, kernel: str | None = None) -> Selection:
    """Choose a kernel for a weight where it now is, and repack the weight for it.

    Raises:
        NoKernelError: see `select`.
    """
    chosen, selection = select(KernelSpec.of(weight), kernel)
    with _repacking:
        if chosen is None or weight.kernel is None or weight.kernel.name != chosen.name:
            weight.repack(chosen)
        weight.selection = selection
    return selection
