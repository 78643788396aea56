from __future__ import annotations

import dataclasses

from quantload.plugin import DtypeField, QuantizationConfig, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy8Config(QuantizationConfig):
    quant_method = "toy8"

    limit: int = option(127, minimum=1, maximum=127)
    scale_dtype: object = DtypeField("float32", choices=("float32", "float16"))
    kernel: str = option("auto", loading=True)
    skip: list[str] | None = option(None, inert=True)
