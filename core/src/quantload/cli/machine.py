"""What this machine is: interpreter, libraries, devices, and what of it is tested."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantload.registry.requirements import installed_version
from quantload.verdict import Verdict

LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "triton",
)
TESTED = "Linux on CPU, and CUDA from compute capability 8.0"
UNTESTED = (
    "Windows: runs through the torch reference, not tested",
    "macOS (CPU and MPS): runs through the torch reference, not tested",
    "ROCm: runs through the torch reference, not tested",
    "XPU: runs through the torch reference, not tested",
)
OLDEST_TESTED = (8, 0)


@dataclass(frozen=True)
class Device:
    """One device that torch sees.

    Attributes:
        type: torch device type.
        index: number of the device, None where there is one only.
        name: what the driver calls it.
        capability: compute capability or instruction set, "" where there is none.
        total_bytes: its memory; 0 where torch does not tell.
        free_bytes: of which free.
        tested: whether such devices are tested.
    """

    type: str
    index: int | None
    name: str
    capability: str
    total_bytes: int
    free_bytes: int
    tested: bool

    @property
    def label(self) -> str:
        """As torch writes it."""
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def as_json(self) -> dict[str, Any]:
        """The attributes."""
        return asdict(self)


def environment() -> dict[str, str]:
    """Interpreter, system and libraries; imports none of them."""
    found = {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "executable": sys.executable,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "quantload": f"{installed_version('quantload')} in {Path(__file__).resolve().parents[1]}",
    }
    return {**found, **{name: installed_version(name) or "not installed" for name in LIBRARIES}}


def torch_works() -> Verdict:
    """Whether torch can be imported, which tells more than its metadata."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001  a broken installation raises anything
        return Verdict.no(
            f"torch cannot be imported: {type(error).__name__}: {error}",
            "pip install --force-reinstall torch",
        )
    builds = {name: getattr(torch.version, name, None) for name in ("cuda", "hip", "xpu")}
    parts = [f"{name} {version}" for name, version in builds.items() if version]
    return Verdict.yes(", ".join(parts) or "built for CPU only")


def devices() -> list[Device]:
    """Every device that torch can use here; torch is imported."""
    import torch

    found = [_cpu()]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        tested = torch.version.hip is None and (major, minor) >= OLDEST_TESTED and _is_linux()
        found.append(
            Device("cuda", index, properties.name, f"{major}.{minor}", total, free, tested)
        )
    if torch.backends.mps.is_available():
        found.append(Device("mps", None, platform.processor(), "", 0, 0, tested=False))
    for index in range(torch.xpu.device_count()):
        name = torch.xpu.get_device_name(index)
        found.append(Device("xpu", index, name, "", 0, 0, tested=False))
    return found


def _cpu() -> Device:
    import torch

    total, free = _host_memory()
    name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    capability = torch.backends.cpu.get_cpu_capability()
    return Device("cpu", None, name, capability, total, free, tested=_is_linux())


def _is_linux() -> bool:
    return sys.platform == "linux"


def _host_memory() -> tuple[int, int]:
    """Bytes of host memory, all and available; zeros where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    sizes = {key: int(rest.split()[0]) * 1024 for key, _, rest in (n.partition(":") for n in lines)}
    return sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)
