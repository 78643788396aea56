"""Tensors that a method adds beside packed weights, and those that writers add for nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantload.checkpoint.base import Checkpoint
from quantload.loading.claiming import claimed
from quantload.loading.report import LoadReport
from quantload.loading.traits import Traits
from quantload.modules import set_module
from quantload.quantizers.spec import ModuleSpec
from quantload.quantizers.weight import WeightQuantizer

logger = logging.getLogger(__name__)


def wrap_modules(
    model: nn.Module, checkpoint: Checkpoint, quantizer: WeightQuantizer, traits: Traits
) -> None:
    """Put wrappers where claims of kind "wrapper" say.

    Their tensors are float ones of the model from then on, and are loaded as such. A
    claim for a module that the model lacks is left alone: its tensors are unexpected.

    Args:
        model: the skeleton; changed.
        checkpoint: what is to be loaded.
        quantizer: the method.
        traits: of the model's class.
    """
    modules = dict(model.named_modules())
    for origin, spec in claimed(quantizer, checkpoint).items():
        if spec.kind != "wrapper":
            continue
        leaf = next(iter(spec.tensors))
        places = dict.fromkeys((f"{name}.{leaf}" for name in modules), torch.empty(0))
        target, converted = traits.names.locate(f"{origin}.{leaf}", places)
        name = target.removesuffix(f".{leaf}")
        if name in modules and not converted:
            set_module(model, name, quantizer.wrap(spec.replace(name=name), modules[name]))


def drop_empty_bias(
    origin: str,
    spec: ModuleSpec,
    checkpoint: Checkpoint,
    expected: Mapping[str, Tensor],
    taken: set[str],
    report: LoadReport,
) -> None:
    """Leave out a bias of zeros that a packed module has in the file and not in the model.

    Args:
        origin: the checkpoint's name of the module.
        spec: as claimed, and under the model's name.
        checkpoint: what is to be loaded.
        expected: the model's tensors.
        taken: tensors that are accounted for; added to.
        report: where it is noted.
    """
    name = f"{origin}.bias"
    if f"{spec.name}.bias" in expected or name not in checkpoint:
        return
    if not bool(checkpoint.read(name).any()):
        taken.add(name)
        report.ignored.append(name)
    else:
        report.biases[name] = checkpoint.info(name).file.name
