"""`quantload info`: what a checkpoint is, and what loading it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from quantload.cli.answer import size
from quantload.cli.contents import contents_of
from quantload.cli.doctor import Finding
from quantload.cli.info_view import render
from quantload.cli.machine import devices
from quantload.cli.packed import Group, groups_of, specs_of
from quantload.errors import PluginError, QuantloadError, UnknownMethodError
from quantload.registry.requirements import check_requirement
from quantload.verdict import Verdict

if TYPE_CHECKING:
    from quantload.cli.contents import Contents
    from quantload.quantizers.base import HfQuantizer
    from quantload.quantizers.spec import TensorHeader

__all__ = ["Info", "gather", "render"]

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass
class Info:
    """What was found out.

    Attributes:
        source: as it was asked for.
        format: of the files.
        files: name -> bytes.
        architecture: the class that `config.json` names, or "".
        model_type: its model type, or "".
        method: the quantization method, "" for a float checkpoint.
        provider: distribution and version of the plugin, or "".
        config: the quantization config, unknown keys included.
        tensors: how many.
        dtypes: dtype -> number of tensors and their bytes, of what is not packed.
        float_parameters: of what is not packed.
        groups: the packed modules.
        tensor_bytes: all tensors in the files.
        memory_bytes: all of them loaded, with `dtype="auto"`.
        shapes_known: whether the shape of every packed module is known.
        needs: what loading it takes.
    """

    source: str
    format: str
    files: dict[str, int]
    architecture: str
    model_type: str
    method: str = ""
    provider: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    tensors: int = 0
    dtypes: dict[str, tuple[int, int]] = field(default_factory=dict)
    float_parameters: int = 0
    groups: list[Group] = field(default_factory=list)
    tensor_bytes: int = 0
    memory_bytes: int = 0
    shapes_known: bool = True
    needs: list[Finding] = field(default_factory=list)

    @property
    def parameters(self) -> int | None:
        """Logical parameters; None where they cannot be told."""
        if not self.shapes_known:
            return None
        return self.float_parameters + sum(group.parameters for group in self.groups)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it cannot be loaded as things are."""
        return tuple(f"{n.what}: {n.verdict.reason}" for n in self.needs if not n.verdict)

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "source": self.source,
            "format": self.format,
            "files": self.files,
            "architecture": self.architecture,
            "model_type": self.model_type,
            "method": self.method,
            "provider": self.provider,
            "config": self.config,
            "parameters": self.parameters,
            "tensors": self.tensors,
            "bytes": {
                "files": sum(self.files.values()),
                "tensors": self.tensor_bytes,
                "memory": self.memory_bytes,
            },
            "not_packed": {k: {"tensors": n, "bytes": b} for k, (n, b) in self.dtypes.items()},
            "packed": [group.as_json() for group in self.groups],
            "needs": [need.as_json() for need in self.needs],
            "problems": list(self.problems),
        }


def gather(source: str, revision: str | None, subfolder: str | None, variant: str | None) -> Info:
    """Look at a checkpoint; no tensor is read.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    contents = contents_of(source, revision, subfolder, variant)
    try:
        return _examine(contents)
    finally:
        if contents.opened is not None:
            contents.opened.close()


def _examine(contents: Contents) -> Info:
    config = contents.config
    info = Info(
        contents.source,
        contents.format,
        contents.files,
        ", ".join(map(str, config.get("architectures") or [])),
        str(config.get("model_type") or ""),
        tensors=len(contents.headers),
        tensor_bytes=sum(header.nbytes for header in contents.headers.values()),
    )
    packed: set[str] = set()
    if contents.quantization is not None:
        quantizer = _quantizer(info, contents.quantization)
        if quantizer is not None:
            packed = _packed(info, contents, quantizer)
        else:
            info.shapes_known = False
    rest = {name: header for name, header in contents.headers.items() if name not in packed}
    info.dtypes = _by_dtype(rest)
    info.float_parameters = sum(prod(h.shape) for h in rest.values() if h.dtype in FLOATS)
    info.memory_bytes = sum(header.nbytes for header in rest.values()) + sum(
        group.memory_bytes for group in info.groups
    )
    if info.architecture or info.model_type:
        model = Finding(
            "load_model builds it with transformers", check_requirement("transformers>=5")
        )
        info.needs.append(model)
    info.needs.append(Finding("memory", _fits(info.memory_bytes)))
    return info


def _fits(nbytes: int) -> Verdict:
    """Whether the weights fit into the free memory of one device, or of all together."""
    free = {d: d.free_bytes for d in devices() if d.free_bytes}
    listing = ", ".join(f"{d.label} {size(n)}" for d, n in free.items()) or "not known"
    told = f"{size(nbytes)} for the weights; free here: {listing}"
    if not free or nbytes <= max(free.values()):
        return Verdict.yes(told)
    fix = 'device_map="auto"'
    if nbytes > sum(free.values()):
        fix += ", offload_folder=..., which is slow"
    return Verdict.no(told, fix)


def _quantizer(info: Info, raw: Mapping[str, Any]) -> HfQuantizer | None:
    """The quantizer, noting what stands in its way."""
    from quantload.config.auto import resolve_config
    from quantload.quantizers.auto import AutoHfQuantizer

    info.method, info.config = str(raw.get("quant_method") or "unnamed"), dict(raw)
    try:
        found, config, _ = resolve_config(raw)
        info.method, info.provider = config.quant_method, found.record.provider
        info.config = config.to_diff_dict()
        quantizer = AutoHfQuantizer.from_config(config, provider=found.record.distribution)
    except (UnknownMethodError, PluginError) as error:
        info.needs.append(Finding("the plugin of its method", Verdict.no(str(error))))
        return None
    except QuantloadError as error:
        info.needs.append(Finding("a quantization config that can be used", Verdict.no(str(error))))
        return None
    info.needs.append(Finding(f"the plugin {info.provider}", Verdict.yes()))
    info.needs.append(Finding("what the plugin needs", quantizer.is_available()))
    return quantizer


def _packed(info: Info, contents: Contents, quantizer: HfQuantizer) -> set[str]:
    """The names of all tensors that belong to packed modules; fills in the groups."""
    from quantload.quantizers.weight import WeightQuantizer

    if not isinstance(quantizer, WeightQuantizer):
        info.shapes_known = False
        return set()
    try:
        specs = specs_of(contents, quantizer, _dtype(contents))
        here = {d.type for d in devices() if quantizer.supports_device(d.type)}
        info.groups = groups_of(specs, quantizer, here)
    except QuantloadError as error:
        info.shapes_known = False
        info.needs.append(Finding("tensors that fit the method", Verdict.no(str(error))))
        return set()
    info.shapes_known = all(spec.shape is not None for spec in specs.values())
    return {f"{n}.{key}" for n, spec in specs.items() for key in spec.tensors if key != "bias"}


def _dtype(contents: Contents) -> Any:
    """The dtype that `dtype="auto"` computes in, as far as config and headers tell."""
    import torch

    config = contents.config
    parts = (config, config.get("text_config") or {})
    declared = next((p[k] for p in parts for k in ("dtype", "torch_dtype") if p.get(k)), None)
    found = getattr(torch, str(declared).removeprefix("torch."), None)
    if isinstance(found, torch.dtype):
        return found
    names = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return next(
        (names[h.dtype] for h in contents.headers.values() if h.dtype in names), torch.float32
    )


def _by_dtype(headers: Mapping[str, TensorHeader]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for header in headers.values():
        number, nbytes = found.get(header.dtype, (0, 0))
        found[header.dtype] = (number + 1, nbytes + header.nbytes)
    return dict(sorted(found.items()))
