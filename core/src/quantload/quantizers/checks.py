"""What `validate_environment` refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantload.errors import DeviceMapError, MissingRequirementError

if TYPE_CHECKING:
    from quantload.quantizers.base import HfQuantizer


def device_types(device_map: str | Mapping[str, Any] | None) -> set[str]:
    """The torch device types a device map names; none for "auto" and its kin."""
    if device_map is None:
        return set()
    places = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    found = set()
    for place in places:
        if isinstance(place, int):
            found.add("cuda")
        elif str(place) not in ("auto", "balanced", "balanced_low_0", "sequential"):
            found.add(str(place).partition(":")[0])
    return found


def check_packages(quantizer: HfQuantizer) -> None:
    """Raise `MissingRequirementError` where a package is absent or too old."""
    verdict = quantizer.is_available()
    if not verdict:
        fix = f"; try: {verdict.fix}" if verdict.fix else ""
        raise MissingRequirementError(f"{quantizer.quant_method}: {verdict.reason}{fix}")


def check_devices(quantizer: HfQuantizer, device_map: str | Mapping[str, Any] | None) -> None:
    """Raise `DeviceMapError` where the map names a device the method does not run on."""
    for kind in sorted(device_types(device_map)):
        verdict = quantizer.supports_device(kind)
        if not verdict:
            raise DeviceMapError(f"device_map names {kind!r}: {verdict.reason}")
