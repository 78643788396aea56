"""Which modules are packed: decided from the checkpoint's tensors, not from skip lists."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quantload.checkpoint.base import Checkpoint
from quantload.errors import CheckpointError, ConfigError, UnsupportedOperationError
from quantload.loading.claiming import claimed
from quantload.loading.extras import drop_empty_bias
from quantload.loading.report import LoadReport
from quantload.loading.skeleton import describe
from quantload.loading.traits import Traits
from quantload.quantizers.base import HfQuantizer
from quantload.quantizers.spec import ModuleSpec
from quantload.quantizers.weight import WeightQuantizer

logger = logging.getLogger(__name__)


@dataclass
class Evidence:
    """What the checkpoint says of packed modules.

    Attributes:
        specs: module of the model -> its spec, with the checkpoint's tensors.
        names: module of the model -> the checkpoint's name of it.
        taken: names of checkpoint tensors that belong to packed weights.
    """

    specs: dict[str, ModuleSpec] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)


def packed_modules(
    model: nn.Module,
    checkpoint: Checkpoint,
    quantizer: HfQuantizer | None,
    traits: Traits,
    expected: Mapping[str, Tensor],
    report: LoadReport,
) -> Evidence:
    """The modules that the checkpoint holds packed.

    Raises:
        CheckpointError: a packed module does not have the shape of the model's, or two
            are the same one of the model.
        UnsupportedOperationError: what is packed cannot be hosted.
    """
    found = Evidence()
    if not isinstance(quantizer, WeightQuantizer):
        return found
    for origin, spec in claimed(quantizer, checkpoint).items():
        if spec.kind == "wrapper":
            continue  # its tensors are float ones: see `extras`
        tensors = {key: header for key, header in spec.tensors.items() if key != "bias"}
        full = {f"{origin}.{key}" for key in tensors}
        found.taken |= full
        target, converted = traits.names.locate(f"{origin}.weight", expected)
        module = target.removesuffix(".weight")
        if converted or (target in expected and not _hostable(target, expected[target])):
            raise UnsupportedOperationError(
                f"{checkpoint.path}: {origin} is packed ({', '.join(sorted(tensors))}), and the "
                f"model joins it with others into {target!r}, which cannot be done to packed "
                f"tensors: use a checkpoint that keeps them in float"
            )
        if target not in expected:
            for name in sorted(full):
                report.unexpected[name] = checkpoint.info(name).file.name
            continue
        dtype = traits.dtype_of(target, expected[target]) or expected[target].dtype
        mine = describe(model, spec, module, dtype).replace(tensors=tensors)
        if spec.shape is not None and tuple(spec.shape) != mine.shape:
            raise CheckpointError(
                f"{checkpoint.path}: {origin} is packed with shape {list(spec.shape)}, and "
                f"{module} of the model has shape {list(mine.shape or ())}; the checkpoint is of "
                f"another model, or its config.json of another checkpoint"
            )
        if module in found.names:
            raise CheckpointError(
                f"{checkpoint.path}: {found.names[module]} and {origin} are both packed, and both "
                f"are {module} of the model; remove the one that is not meant"
            )
        found.specs[module] = mine
        found.names[module] = origin
        drop_empty_bias(origin, mine, checkpoint, expected, found.taken, report)
    return found


def _hostable(target: str, tensor: Tensor) -> bool:
    return target.endswith(".weight") and tensor.ndim == 2


def modules_to_quantize(
    model: nn.Module,
    quantizer: HfQuantizer | None,
    evidence: Evidence,
    provided: set[str],
    dtype_of: Mapping[str, torch.dtype],
    report: LoadReport,
) -> dict[str, ModuleSpec]:
    """The float modules of the checkpoint that are quantized while loading.

    Args:
        model: the skeleton, still float.
        quantizer: the method, if any.
        evidence: what is packed already.
        provided: float tensors of the model for which the checkpoint has bytes.
        dtype_of: their dtypes before quantization.
        report: what the method would pack and stays float is noted here.

    Raises:
        CheckpointError: the config says quantized, nothing is, and the method cannot.
        ConfigError: the method cannot quantize.
    """
    if not isinstance(quantizer, WeightQuantizer):
        return {}
    wanted = {n: s for n, s in quantizer.targets(model).items() if f"{n}.weight" in provided}
    if evidence.specs:
        report.left_float = [name for name in wanted if name not in evidence.specs]
        if report.left_float:
            logger.info(
                "%s: %d modules that the config would have packed are float in the checkpoint "
                "and stay so: %s",
                report.source,
                len(report.left_float),
                ", ".join(report.left_float[:5]),
            )
        return {}
    able = quantizer.can_quantize()
    if not able:
        kind = CheckpointError if quantizer.pre_quantized else ConfigError
        raise kind(
            f"{report.source}: no tensor of a {quantizer.quant_method} layer was found, and "
            f"{able.reason}"
        )
    if quantizer.pre_quantized and wanted:
        logger.info(
            "%s: the config says %s and every weight is float; they are quantized now",
            report.source,
            quantizer.quant_method,
        )
    if not wanted:
        logger.warning("%s: %s finds no module to quantize", report.source, quantizer.quant_method)
    report.left_float = _experts(model)
    if report.left_float:
        logger.info(
            "%s: %d tensors of experts stay float: %s",
            report.source,
            len(report.left_float),
            ", ".join(report.left_float[:3]),
        )
    return {
        name: spec.replace(name=name, dtype=dtype_of[f"{name}.weight"])
        for name, spec in wanted.items()
    }


def _experts(model: nn.Module) -> list[str]:
    return [
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and "expert" in type(module).__name__.lower()
    ]
