"""`BitsAndBytesConfig`: the fields of the `transformers` class of the same name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from quantload.plugin import ConfigError, DtypeField, QuantizationConfig, option

if TYPE_CHECKING:
    from typing_extensions import Self

QUANT_TYPES = ("fp4", "nf4")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
STORAGE_DTYPES = ("uint8", "int8", "float16", "bfloat16", "float32", "float64")

_FLAGS = ("load_in_4bit", "load_in_8bit")
_BY_ALIAS = {"bitsandbytes_4bit": "load_in_4bit", "bitsandbytes_8bit": "load_in_8bit"}


class _DtypeOrDefault(DtypeField):
    """A dtype for which None stands for the default, as `transformers` has it."""

    def __set__(self, obj: Any, value: Any) -> None:
        super().__set__(obj, self.default if value is None else value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitsAndBytesConfig(QuantizationConfig):
    """Settings of the bitsandbytes methods.

    Attributes:
        load_in_8bit: LLM.int8.
        load_in_4bit: NF4 or FP4. At most one of the two.
        llm_int8_threshold: inputs of this magnitude or more are outliers, whose
            columns are multiplied in floating point; 0 for none.
        llm_int8_skip_modules: modules to leave float; None stands for the output
            head, what is tied to anything, and the last module.
        llm_int8_enable_fp32_cpu_offload: modules that a device map puts on the CPU or
            the disk, beside an accelerator, stay float.
        llm_int8_has_fp16_weight: weights stay 16-bit and are quantized in each
            forward; such a model cannot be loaded here.
        bnb_4bit_compute_dtype: what 4-bit layers compute in.
        bnb_4bit_quant_type: "fp4" or "nf4".
        bnb_4bit_use_double_quant: the absmax of the blocks are quantized, too.
        bnb_4bit_quant_storage: dtype as which packed bytes are stored in files.
        bnb_4bit_blocksize: elements that share an absmax when quantizing on load. The
            `transformers` class lacks it and always takes 64; it is written only where
            it differs.
    """

    quant_method: ClassVar[str] = "bitsandbytes"

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    llm_int8_threshold: float = option(6.0, minimum=0.0, loading=True)
    llm_int8_skip_modules: list[str] | None = option(None, inert=True)
    llm_int8_enable_fp32_cpu_offload: bool = option(False, inert=True)
    llm_int8_has_fp16_weight: bool = False
    bnb_4bit_compute_dtype: Any = _DtypeOrDefault("float32", loading=True)
    bnb_4bit_quant_type: str = option("fp4", choices=QUANT_TYPES)
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_quant_storage: Any = _DtypeOrDefault("uint8", choices=STORAGE_DTYPES)
    bnb_4bit_blocksize: int = option(64, choices=BLOCK_SIZES)

    def check(self) -> None:
        """Refuse both widths at once."""
        if self.load_in_4bit and self.load_in_8bit:
            raise ConfigError(
                "load_in_4bit and load_in_8bit are both true; only one can be",
                field="load_in_4bit",
                value=True,
                allowed="false, for load_in_8bit is true",
            )

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from a dict; a `quant_method` of "bitsandbytes_4bit" says the width, too."""
        flag = _BY_ALIAS.get(str(config_dict.get("quant_method")))
        if flag is None or any(config_dict.get(key) for key in (*_FLAGS, f"_{flag}")):
            return super().from_dict(config_dict, **overrides)
        return super().from_dict({**config_dict, flag: True}, **overrides)

    @classmethod
    def normalize(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Take `_load_in_4bit` and `_load_in_8bit` for what they are copies of.

        Raises:
            ConfigError: a copy contradicts its original.
        """
        for flag in _FLAGS:
            copy = raw.pop(f"_{flag}", None)
            if copy is None:
                continue
            if raw.setdefault(flag, copy) != copy:
                raise ConfigError(
                    f"{flag} is {raw[flag]!r} and _{flag} is {copy!r}; they should be equal",
                    field=flag,
                    value=raw[flag],
                    allowed=repr(copy),
                )
        return raw

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON holds it; the block size only where it is not 64."""
        values = super().to_dict()
        if values["bnb_4bit_blocksize"] == 64:
            del values["bnb_4bit_blocksize"]
        return values

    def quantization_method(self) -> str | None:
        """Which of "llm_int8", "fp4" and "nf4" is asked for; None where no width is."""
        if self.load_in_8bit:
            return "llm_int8"
        return self.bnb_4bit_quant_type if self.load_in_4bit else None

    def is_quantizable(self) -> bool:
        """Whether a width is asked for."""
        return self.quantization_method() is not None
