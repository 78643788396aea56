from __future__ import annotations

import torch

from quantload.plugin import CheckpointError, ModuleSpec, WeightQuantizer
from toy8.weight import Toy8Weight

SCALES = {"F32": torch.float32, "F16": torch.float16}


class Toy8Quantizer(WeightQuantizer):
    weight_class = Toy8Weight

    def claims(self, headers):
        found = {}
        for name, codes in headers.items():
            module, _, leaf = name.rpartition(".")
            if leaf != "codes":
                continue
            scales = headers.get(f"{module}.scales")
            if scales is None:
                raise CheckpointError(f"{module}.scales is missing beside {name}")
            if codes.dtype != "I8" or len(codes.shape) != 2:
                raise CheckpointError(
                    f"{name}: expected int8 [out, in], found {codes.dtype} {codes.shape}"
                )
            if scales.dtype not in SCALES or scales.shape != codes.shape[:1]:
                raise CheckpointError(
                    f"{module}.scales: expected float [{codes.shape[0]}], found "
                    f"{scales.dtype} {scales.shape}"
                )
            found[module] = ModuleSpec(
                module,
                shape=tuple(codes.shape),
                tensors={"codes": codes, "scales": scales},
                params={"scale_dtype": scales.dtype},
            )
        return found

    def empty(self, spec):
        out_features, in_features = spec.shape
        scales = self.quantization_config.scale_dtype
        if spec.tensors:
            scales = SCALES[spec.tensors["scales"].dtype]
        return self.weight_class(
            torch.empty(out_features, in_features, dtype=torch.int8, device="meta"),
            torch.empty(out_features, dtype=scales, device="meta"),
            spec.dtype or torch.get_default_dtype(),
        )

    def pack_weight(self, spec, tensors):
        for key, header in spec.tensors.items():
            if key not in tensors:
                raise CheckpointError(f"{spec.name}.{key} is missing")
            if tuple(tensors[key].shape) != tuple(header.shape):
                raise CheckpointError(f"{spec.name}.{key}: another shape than in the header")
        return self.weight_class(
            tensors["codes"], tensors["scales"], spec.dtype or torch.get_default_dtype()
        )

    def unpack_weight(self, spec, weight):
        return weight.storage()

    def quantize(self, spec, weight, device=None):
        weight = weight.to(device or weight.device).float()
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"{spec.name}: the weight holds values that are not finite")
        limit = self.quantization_config.limit
        scales = (weight.abs().amax(1).clamp_min(1e-20) / limit).to(
            self.quantization_config.scale_dtype
        )
        scales = scales.clamp_min(torch.finfo(scales.dtype).tiny)
        codes = (weight / scales.float()[:, None]).round().clamp(-limit, limit).to(torch.int8)
        return self.weight_class(codes, scales, spec.dtype or torch.float32)

    @property
    def is_compileable(self):
        return True
