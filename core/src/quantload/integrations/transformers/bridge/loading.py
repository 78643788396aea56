"""One load through `transformers`: planned from headers, carried out by its loader."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from quantload.checkpoint import Checkpoint
from quantload.checkpoint.blame import file_named
from quantload.integrations.transformers.bridge.checking import check_loaded, settle
from quantload.integrations.transformers.bridge.converters import PackedConverter
from quantload.integrations.transformers.bridge.experts import ExpertSplit, refuse_expert_parallel
from quantload.integrations.transformers.bridge.finishing import finish
from quantload.integrations.transformers.bridge.onefile import FileTensor
from quantload.integrations.transformers.bridge.parallel import Split, is_split
from quantload.integrations.transformers.bridge.placing import put_weight
from quantload.integrations.transformers.bridge.planning import (
    discard,
    made_at_once,
    module_of,
    opened,
    outputs_of,
    renamed_by,
)
from quantload.integrations.transformers.conversions import (
    TransformersConversion,
    TransformersNames,
)
from quantload.integrations.transformers.traits import traits_of
from quantload.loading import tying
from quantload.loading.claiming import claimed
from quantload.loading.names import Route
from quantload.loading.plan import HOST_CLASSES, Decision, decide, host
from quantload.loading.record import LoadRecord, attach
from quantload.quantizers.spec import ModuleSpec
from quantload.quantizers.weight import WeightQuantizer
from quantload.weights.packed import PackedWeight

if TYPE_CHECKING:
    from quantload.integrations.transformers.bridge.quantizer import BridgedQuantizer

logger = logging.getLogger(__name__)


class Loading:
    """What `from_pretrained` is loading.

    Args:
        quantizer: whose load it is.
        model: the skeleton.
        dtype: of what stays float.
        files: of the checkpoint.
    """

    def __init__(
        self,
        quantizer: BridgedQuantizer,
        model: Any,
        dtype: torch.dtype | None,
        files: Sequence[str] | None,
    ) -> None:
        self.quantizer = quantizer
        self.model = model
        self._dtype = dtype or torch.get_default_dtype()
        self._files = files
        self._lent: Checkpoint | None = None
        self._decided: Decision | None = None
        self._record: LoadRecord | None = None
        self.split: Split | None = None
        self._experts: ExpertSplit | None = None
        self._outputs: dict[str, list[tuple[str, ModuleSpec | None]]] = {}
        self._packed: dict[str, str] = {}
        self._routes: dict[str, Route] = {}
        self._sizes: dict[str, float] = {}

    def tensors(self) -> dict[str, FileTensor]:
        """The tensors of a file that the loader cannot read itself; it stays open meanwhile."""
        self._lent = opened(self._files)
        return {name: FileTensor(self._lent, name) for name in self._lent.tensors}

    # -- planning ----------------------------------------------------------------------

    def plan(self, conversions: list[Any]) -> list[Any]:
        """Decide what becomes of every tensor, and give what is packed its hosts.

        Args:
            conversions: those that the loader will apply.

        Returns:
            The converters that are to come before them.

        Raises:
            CheckpointError: the checkpoint is not that of this model.
            UnsupportedOperationError: something packed cannot be hosted, or there are no
                files to plan with.
        """
        core, model = self.quantizer.core, self.model
        if not isinstance(self.quantizer._device_map, (dict, str)):
            core.validate_environment(device_map={"": "cpu"})
        with (
            nullcontext(self._lent) if self._lent is not None else opened(self._files) as checkpoint
        ):
            names = TransformersNames(model, copy.deepcopy(conversions))
            decided = decide(
                model,
                checkpoint,
                traits=traits_of(model, self._dtype, names),
                quantizer=None if self._float(checkpoint) else core,
                settle=lambda report: settle(report, model),
            )
            renamed = renamed_by(checkpoint, copy.deepcopy(conversions))
            folder, config, origin = checkpoint.folder, checkpoint.config(), checkpoint.origin
        packed = {name: s for name, s in decided.specs.items() if name not in decided.fresh}
        if is_split(model):
            packed = {**packed, **made_at_once(decided)}
        shared = {n: o for n, o in decided.sharing.modules.items() if n in packed}
        host(model, core, packed, shared)
        doubled = [
            n for pair in decided.ties.doubled for n in pair if module_of(n) in decided.specs
        ]
        decided.sharing.forget.update(doubled)
        tying.prune(model, decided.sharing.forget)
        model._no_split_modules = {*(model._no_split_modules or ()), *HOST_CLASSES}
        core.pre_quantized = bool(decided.evidence.specs) or not decided.fresh
        self.quantizer.pre_quantized = core.pre_quantized or is_split(model)
        self._decided = decided
        self.split = Split(model, list(packed))
        refuse_expert_parallel(model)
        self._experts = ExpertSplit(model, self.split.size)
        self.split.experts_apart = self._experts.apart
        self._outputs = {} if is_split(model) else outputs_of(decided)
        self._record = LoadRecord(
            folder,
            config,
            decided.names,
            decided.groups,
            decided.specs,
            core,
            decided.report,
            conversions=names.used(),
            origin=origin,
        )
        attach(model, self._record)  # now, for what does not fit is reported before the end
        for name, spec in decided.fresh.items():
            assert isinstance(core, WeightQuantizer)
            weight = core.empty(spec)
            self._sizes[f"{name}.weight"] = weight.nbytes / max(weight.numel(), 1)
        table = self._table(names, renamed)
        return [PackedConverter(self, table)] if table else []

    def _table(self, names: TransformersNames, renamed: Mapping[str, str]) -> dict[str, str]:
        """What the loader is not to take as it would: packed modules, and some floats."""
        assert self._decided is not None
        decided, table = self._decided, {}
        for module, origin in decided.evidence.names.items():
            if module in decided.sharing.modules:
                continue
            target = f"{module}.weight.{next(iter(self._stored(module)))}"
            self._packed[target] = module
            for key in decided.specs[module].tensors:
                table[renamed[f"{origin}.{key}"]] = target
        for route in decided.found.routes:
            if isinstance(route.conversion, TransformersConversion):
                continue  # the loader has it too
            if is_split(self.model) and module_of(next(iter(route.targets))) in decided.fresh:
                module = module_of(next(iter(route.targets)))
                target = f"{module}.weight.{next(iter(self._stored(module)))}"
                self._packed[target] = module
                table[renamed[route.sources[0]]] = target
                continue
            target = next(name for name in route.targets if name in decided.expected)
            direct = route.conversion is None and target not in self._outputs
            if direct and names.locate(route.sources[0], decided.expected) == (target, False):
                continue
            self._routes[target] = route
            for source in route.sources:
                table[renamed[source]] = target
        return table

    def _stored(self, module: str) -> dict[str, Tensor]:
        """What the empty packed weight of a module stores, by name."""
        weight: PackedWeight = self.model.get_submodule(module).weight
        return weight.storage()

    def _float(self, checkpoint: Checkpoint) -> bool:
        """Whether a file that was asked for by name holds nothing that is packed."""
        core = self.quantizer.core
        if self._lent is None or not isinstance(core, WeightQuantizer):
            return False
        return not claimed(core, checkpoint)

    def changes(self, name: str) -> bool:
        """Whether a float parameter is quantized, or feeds something that is."""
        return name in self._outputs

    def element_size(self, name: str) -> float | None:
        """Bytes per element of a float parameter that will be packed; None for others."""
        return self._sizes.get(name)

    # -- carrying out --------------------------------------------------------------------

    def convert(
        self, target: str, tensors: Mapping[str, Tensor], missing: set[str] | None
    ) -> dict[str, Tensor]:
        """What becomes of the tensors collected for a target.

        Returns:
            The parameters that the loader is to put in place itself.
        """
        core = self.quantizer.core
        assert self._decided is not None
        if target in self._packed:
            assert isinstance(core, WeightQuantizer)
            module = self._packed[target]
            if module in self._decided.fresh:
                return self._put(module, self._quantized(module, *tensors.values()), missing)
            start = f"{self._decided.evidence.names[module]}."
            own = {name.removeprefix(start): tensor for name, tensor in tensors.items()}
            spec = self._decided.specs[module]
            with file_named({f"{module}.{key}": info for key, info in spec.tensors.items()}):
                weight = core.pack(spec, own)
            return self._put(module, weight, missing)
        route = self._routes[target]
        made: Mapping[str, Tensor] = {target: next(iter(tensors.values()))}
        if route.conversion is not None:
            made = route.conversion(tensors)
        found: dict[str, Tensor] = {}
        for name, tensor in made.items():
            if name in self._decided.found.provided:
                dtype = self._decided.found.dtypes[name]
                found |= self.quantize(name, tensor.to(dtype).contiguous(), missing)
        return found

    def quantize(self, name: str, tensor: Tensor, missing: set[str] | None) -> dict[str, Tensor]:
        """Quantize a float parameter of the model, for every module that takes its bytes.

        Returns:
            The parameters that the loader is to put in place itself.
        """
        core = self.quantizer.core
        assert self._decided is not None
        assert isinstance(core, WeightQuantizer)
        found: dict[str, Tensor] = {}
        for output, spec in self._outputs.get(name, [(name, None)]):
            if spec is None:
                found[output] = tensor
                continue
            weight = self._quantized(module_of(output), tensor)
            host(self.model, core, {module_of(output): spec}, {})
            discard(missing, output)
            found |= self._put(module_of(output), weight, missing)
        return found

    def _quantized(self, module: str, tensor: Tensor) -> PackedWeight:
        core = self.quantizer.core
        assert self._decided is not None
        assert isinstance(core, WeightQuantizer)
        spec = self._decided.fresh[module]
        matrix = tensor.to(self._decided.found.dtypes.get(f"{module}.weight", tensor.dtype))
        matrix = matrix.t().contiguous() if spec.kind == "conv1d" else matrix.contiguous()
        return core.quantize(spec, matrix, matrix.device)

    def _put(
        self, module: str, weight: PackedWeight, missing: set[str] | None
    ) -> dict[str, Tensor]:
        assert self._decided is not None
        found: dict[str, Tensor] = {}
        shared = self._decided.sharing.modules
        for name in [module, *(n for n, owner in shared.items() if owner == module)]:
            for key in [k for k in missing or () if k.startswith(f"{name}.weight.")]:
                discard(missing, key)
            if self._experts is not None and self._experts.away(name):
                continue
            if name in self._decided.fresh and name != module:
                host(self.model, self.quantizer.core, {name: self._decided.specs[name]}, {})
                discard(missing, f"{name}.weight")
            place = self.quantizer.place(name)
            apart = place != self.quantizer.place(module)
            own = copy.deepcopy(weight) if apart else weight
            if self.split is not None:
                own = self.split.part(name, own)
            found |= put_weight(self.model, name, own, place)
        return found

    # -- afterwards ------------------------------------------------------------------------

    def finish(self, model: Any) -> Any:
        """Complete a model that the loader has filled.

        Raises:
            CheckpointError: something was left without its value.
        """
        assert self._decided is not None
        assert self._record is not None
        model._weight_conversions = []  # what is saved has the checkpoint's own names
        if self._experts is not None:
            self._experts.finish(model)
        self._record.in_parts = self.quantizer.in_parts
        made = self.quantizer.core.quantization_config  # known only now: what has been made
        self.quantizer.quantization_config = model.config.quantization_config = made
        check_loaded(model, self._decided, self.quantizer.place)
        finish(model, self._decided)
        if self._lent is not None:
            self._of_the_file(model, self._lent)
        return self.quantizer.core.postprocess_model(model)

    def _of_the_file(self, model: Any, checkpoint: Checkpoint) -> None:
        """What the loader takes from a folder, taken from the one file; then it is closed."""
        said = checkpoint.generation_config()
        if model.can_generate() and said:
            model.generation_config = GenerationConfig.from_dict(said)
        if self._float(checkpoint):
            self.quantizer.remove_quantization_config(model)
            assert self._record is not None
            self._record.quantizer = None
        self._lent = None
        checkpoint.close()
