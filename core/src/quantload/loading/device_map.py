"""Where each module goes: from what a caller may say to a place per tensor."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from quantload.errors import DeviceMapError

DISK: Literal["disk"] = "disk"
Place = torch.device | Literal["disk"]
AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class DeviceMap:
    """A place for every tensor of a model.

    Attributes:
        places: module (or tensor) name -> place; "" is the whole model.
        asked: whether the caller gave a device map at all.
    """

    places: Mapping[str, Place]
    asked: bool = True

    def place(self, name: str) -> Place:
        """The place of a module or tensor: that of the longest name above it.

        Raises:
            DeviceMapError: the map says nothing about it.
        """
        at = name
        while at not in self.places:
            if not at:
                raise DeviceMapError(
                    f'device_map says nothing about {name!r}; add it, or "" for all the rest'
                )
            at = at.rpartition(".")[0]
        return self.places[at]

    @property
    def dispatched(self) -> bool:
        """Whether modules are in several places, so that hooks must move what flows."""
        return len(set(self.places.values())) > 1 or DISK in self.places.values()

    @property
    def main(self) -> torch.device:
        """Where offloaded modules run: the first accelerator, else the CPU."""
        devices = [place for place in self.places.values() if isinstance(place, torch.device)]
        return next((d for d in devices if d.type != "cpu"), CPU)

    def offloaded(self, name: str) -> bool:
        """Whether a tensor is somewhere else than where it is used."""
        place = self.place(name)
        return place == DISK or (place == CPU and self.main != CPU)

    def as_dict(self) -> dict[str, Any]:
        """As `accelerate` and `transformers` write it (`model.hf_device_map`)."""
        if not self.dispatched:
            return dict(self.places)
        return {name: _spelled(place) for name, place in self.places.items()}


def resolve_device_map(
    model: nn.Module,
    device_map: object = None,
    *,
    max_memory: Mapping[Any, int | str] | None = None,
    no_split: Iterable[str] = (),
    adjust: Callable[[dict[Any, Any]], dict[Any, Any]] | None = None,
) -> DeviceMap:
    """The place of every module.

    Args:
        model: the skeleton; sizes are those of its tensors, packed ones as they are.
        device_map: None (the default device), a device, its index, "auto", "balanced",
            "balanced_low_0", "sequential", or module name -> device or "disk".
        max_memory: device (index, "cpu", "disk") -> bytes, or text like "10GiB".
        no_split: class names of modules that stay together.
        adjust: applied to the memory limits before they are planned with.

    Raises:
        DeviceMapError: a device that is not there, a module that is not there or is
            left out, or limits the model does not fit into.
    """
    if isinstance(device_map, str) and device_map in AUTOMATIC:
        found = _automatic(model, device_map, max_memory, list(no_split), adjust)
        return _checked(model, found, asked=True)
    if max_memory is not None:
        raise DeviceMapError(
            f"max_memory is for device_map={' or '.join(map(repr, AUTOMATIC))}; "
            f"found device_map={device_map!r}"
        )
    if device_map is None:
        return DeviceMap({"": checked_device(torch.get_default_device())}, asked=False)
    if isinstance(device_map, Mapping):
        return _checked(model, device_map, asked=True)
    return DeviceMap({"": checked_device(device_map)})


def checked_device(device: object) -> torch.device:
    """A device that this machine has, with its index.

    Raises:
        DeviceMapError: it has not, or `device` is none.
    """
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        raise DeviceMapError(f"device_map: expected a device, found {device!r}")
    try:
        if isinstance(device, int):
            found = torch.device(_accelerator(), device)
        else:
            found = torch.device(device)
    except (RuntimeError, ValueError) as error:
        allowed = ", ".join(map(repr, ("cpu", "cuda", "cuda:1", *AUTOMATIC)))
        raise DeviceMapError(
            f"device_map: {device!r} is no device; expected {allowed}, an index or a dict"
        ) from error
    if found.type == "meta":
        raise DeviceMapError("device_map: weights cannot be loaded onto the meta device")
    if found.type == "cpu":
        return CPU
    return _present(found)


def _present(device: torch.device) -> torch.device:
    backend: Any = getattr(torch, device.type, None)
    available: bool = getattr(backend, "is_available", lambda: False)()
    if device.type == "mps":
        available = torch.backends.mps.is_available()
    if not available:
        raise DeviceMapError(
            f"device_map names {str(device)!r}, and this torch ({torch.__version__}) finds no "
            f"{device.type} device; use 'cpu', or mend the driver or the installation of torch"
        )
    count = backend.device_count() if hasattr(backend, "device_count") else 1
    index: Any = device.index  # an int to torch's annotations, and None where none was said
    if index is None:
        index = backend.current_device() if hasattr(backend, "current_device") else 0
    if index >= count:
        raise DeviceMapError(
            f"device_map names {str(device)!r}, and there are {count} {device.type} devices "
            f"(numbered from 0)"
        )
    return torch.device(device.type, index)


def _accelerator() -> str:
    found = torch.accelerator.current_accelerator()
    return found.type if found is not None else "cuda"


def _checked(model: nn.Module, device_map: Mapping[Any, Any], asked: bool) -> DeviceMap:
    names = {name for name, _ in model.named_modules(remove_duplicate=False)}
    tensors = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    tensors += [n for n, _ in model.named_buffers(remove_duplicate=False)]
    places: dict[str, Place] = {}
    for name, device in device_map.items():
        if name not in names and name not in tensors:
            close = difflib.get_close_matches(str(name), [*names, *tensors], n=3)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise DeviceMapError(f"device_map names {name!r}, which the model does not have{hint}")
        places[name] = DISK if device == DISK else checked_device(device)
    found = DeviceMap(places, asked)
    left_out: list[str] = []
    for name in tensors:
        try:
            found.place(name)
        except DeviceMapError:
            left_out.append(name)
    if left_out:
        listing = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        raise DeviceMapError(
            f"device_map leaves out {len(left_out)} tensors of the model ({listing}); add their "
            f'modules, or "" for all the rest'
        )
    return DeviceMap(dict(_apart(model, found)), asked)


def _apart(model: nn.Module, found: DeviceMap, prefix: str = "") -> Iterator[tuple[str, Place]]:
    """The same map without a name below another, which is what hooks can be hung on.

    Tensors that a module owns itself, beside children in several places, are not
    offloaded: no hook would fetch them alone.
    """
    start = f"{prefix}." if prefix else ""
    if not any(name.startswith(start) and name != prefix for name in found.places):
        yield prefix, found.place(prefix)
        return
    module = model.get_submodule(prefix)
    for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        full = start + name
        place = found.main if found.offloaded(full) else found.place(full)
        yield full, place
    for name, child in module.named_children():
        if next(child.parameters(), None) is not None or next(child.buffers(), None) is not None:
            yield from _apart(model, found, start + name)


def _automatic(
    model: nn.Module,
    how: str,
    max_memory: Mapping[Any, int | str] | None,
    no_split: list[str],
    adjust: Callable[[dict[Any, Any]], dict[Any, Any]] | None,
) -> Mapping[str, Any]:
    from accelerate.utils import (
        convert_file_size_to_int,
        get_balanced_memory,
        get_max_memory,
        infer_auto_device_map,
    )

    limits: dict[Any, Any] | None = None
    if max_memory is not None:
        try:
            limits = {
                _budget_key(key): convert_file_size_to_int(size) for key, size in max_memory.items()
            }
        except ValueError as error:
            raise DeviceMapError(f"max_memory: {error}") from error
    try:
        if how == "sequential":
            limits = get_max_memory(limits)
        else:
            limits = get_balanced_memory(
                model, limits, no_split_module_classes=no_split, low_zero=how == "balanced_low_0"
            )
        if adjust is not None:
            limits = adjust(limits)
        return dict(infer_auto_device_map(model, limits, no_split_module_classes=no_split))
    except (ValueError, KeyError, IndexError) as error:
        sizes = ", ".join(f"{k}: {v}" for k, v in (limits or {}).items())
        raise DeviceMapError(
            f"the model does not fit the memory limits ({sizes}; in bytes): {error}; raise "
            f'max_memory, or let "disk" be among the places'
        ) from error


def _budget_key(key: object) -> int | str:
    if isinstance(key, int) or key in ("cpu", DISK, "mps"):
        return key
    try:
        device = torch.device(str(key))
    except RuntimeError as error:
        raise DeviceMapError(
            f"max_memory: {key!r} is no device; expected an index, 'cpu' or 'disk'"
        ) from error
    return "cpu" if device.type == "cpu" else device.index or 0


def _spelled(place: Place) -> int | str:
    if isinstance(place, str):
        return place
    return place.index if place.type == "cuda" and place.index is not None else str(place)
