"""`GPTQConfig`: every field and every spelling that GPTQ checkpoints are described with."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, ClassVar

from quantload.plugin import ConfigError, QuantizationConfig, option
from quantload_gptq.overrides import FORMATS, WORDS, check_dynamic

logger = logging.getLogger("quantload.gptq")

_SYNONYMS = {
    "w_bit": "bits",
    "wbits": "bits",
    "q_group_size": "group_size",
    "groupsize": "group_size",
}
_FORMAT_KEYS = ("checkpoint_format", "format", "version")
_FORMAT_OF_METHOD = {name: name for name in FORMATS if name != "gptq"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTQConfig(QuantizationConfig):
    """Settings of GPTQ; the fields of the `transformers` class of the same name and more.

    Of the calibration and its maker, without effect on reading: `static_groups`,
    `true_sequential`, `damp_percent`, `damp_auto_increment`, `mse`, `act_group_aware`,
    `dataset`, `tokenizer`, `model_seqlen`, `batch_size`, `pad_token_id`,
    `cache_block_outputs`, `module_name_preceding_first_block`, `model_name_or_path`,
    `model_file_base_name`, `meta`. Choices of kernels of other libraries, without effect
    here: `backend`, `max_input_length`, `use_exllama`, `disable_exllama`,
    `exllama_config`, `use_cuda_fp16`. Whatever stands in one of these is kept as it is.

    Attributes:
        bits: bits of a weight, 2 to 8.
        group_size: columns that share a scale; -1 for whole rows.
        desc_act: quantized in the order of activation sizes. Reading goes by the
            `g_idx` in the file, whatever this says.
        sym: the zero-point is `2**(bits - 1)` everywhere.
        checkpoint_format: "gptq" (version 1, zero-points stored less one), "gptq_v2",
            "gptq_p" (planar) or "marlin". Also spelled `format` and `version`.
        pack_dtype: dtype of the words: "int32", "int16" or "int8".
        lm_head: the output head is quantized, too.
        dynamic: regular expression -> overrides of `bits`, `group_size`, `sym`,
            `desc_act` and `format` for the modules whose names it matches from the
            start; the first that matches counts. "-:" in front keeps modules float.
        modules_in_block_to_quantize: name ends of the layers to quantize, all others in
            the blocks stay float.
        block_name_to_quantize: where the blocks are.
        rotation: the weights are rotated and the model must rotate activations to match,
            which is not done here: such checkpoints are refused.
        adapter: of a low-rank correction beside the weights, which is not applied here.
    """

    quant_method: ClassVar[str] = "gptq"

    bits: int = option(minimum=2, maximum=8)
    group_size: int = option(
        128, check=lambda n: n == -1 or n > 0, allowed="a positive whole number, or -1 for rows"
    )
    desc_act: bool = False
    sym: bool = True
    checkpoint_format: str = option("gptq", choices=FORMATS)
    pack_dtype: str = option("int32", choices=WORDS)
    lm_head: bool = False
    dynamic: dict[str, Any] | None = None
    modules_in_block_to_quantize: list[Any] | None = option(None, inert=True)
    block_name_to_quantize: str | None = option(None, inert=True)
    rotation: str | None = None
    module_name_preceding_first_block: Any = option(None, inert=True)
    static_groups: Any = option(None, inert=True)
    true_sequential: Any = option(True, inert=True)
    damp_percent: Any = option(0.1, inert=True)
    damp_auto_increment: Any = option(None, inert=True)
    mse: Any = option(None, inert=True)
    act_group_aware: Any = option(None, inert=True)
    dataset: Any = option(None, inert=True)
    tokenizer: Any = option(None, inert=True)
    model_seqlen: Any = option(None, inert=True)
    batch_size: Any = option(None, inert=True)
    pad_token_id: Any = option(None, inert=True)
    cache_block_outputs: Any = option(None, inert=True)
    model_name_or_path: Any = option(None, inert=True)
    model_file_base_name: Any = option(None, inert=True)
    meta: Any = option(None, inert=True)
    adapter: Any = option(None, inert=True)
    backend: Any = option(None, loading=True)
    max_input_length: Any = option(None, loading=True)
    use_exllama: Any = option(None, loading=True)
    disable_exllama: Any = option(None, loading=True)
    exllama_config: Any = option(None, loading=True)
    use_cuda_fp16: Any = option(None, loading=True)

    def check(self) -> None:
        """Refuse overrides that mean nothing."""
        check_dynamic(self.dynamic)

    @property
    def format(self) -> str:
        """`checkpoint_format`, as `transformers` calls it."""
        return self.checkpoint_format

    @classmethod
    def normalize(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Every spelling found in the wild, as the fields of this class."""
        fields: dict[str, Any] = {}
        raw.setdefault("quant_method", raw.pop("method", None))
        for key, value in raw.items():
            name = _SYNONYMS.get(key, key)
            if name in raw and name != key:
                _same(key, value, name, raw[name])
                continue
            fields[name] = value
        fields["checkpoint_format"] = _format_in(fields)
        if "zero_point" in fields:
            zero_point = fields.pop("zero_point")
            if fields.get("sym") is None and zero_point is not None:
                fields["sym"] = not zero_point
        if fields.get("group_size", 0) is None:
            fields["group_size"] = -1
        if isinstance(fields.get("pack_dtype"), str):
            fields["pack_dtype"] = fields["pack_dtype"].lower().removeprefix("torch.")
        for key in _DEFAULT_WHERE_NULL:
            if fields.get(key, 0) is None:
                del fields[key]
        return fields

    def to_dict(self) -> dict[str, Any]:
        """The fields as other readers of GPTQ want them; those that are None are left out."""
        values = {key: value for key, value in super().to_dict().items() if value is not None}
        return {**values, "format": self.checkpoint_format}


_DEFAULT_WHERE_NULL = (
    "checkpoint_format",
    "damp_percent",
    "desc_act",
    "lm_head",
    "pack_dtype",
    "sym",
    "true_sequential",
)


def _same(key: str, value: Any, name: str, other: Any) -> None:
    if value != other:
        raise ConfigError(
            f"GPTQConfig: {key} is {value!r} and {name}, which means the same, is {other!r}",
            field=name,
            value=other,
            allowed=repr(value),
        )


def _format_in(fields: dict[str, Any]) -> str | None:
    """Take the layout out of its many places: `checkpoint_format` wins, then `format`."""
    said = {key: fields.pop(key, None) for key in _FORMAT_KEYS}
    marlin = fields.pop("is_marlin_format", None)
    found = [(key, str(value).lower()) for key, value in said.items() if value is not None]
    method = str(fields.get("quant_method") or "").lower()
    if not found and marlin:
        return "marlin"
    if not found or (found[0][1] == "gptq" and method in _FORMAT_OF_METHOD):
        # "marlin" is the method in the configs of some files, and their format by that
        return _FORMAT_OF_METHOD.get(method)
    if len({value for _, value in found}) > 1:
        logger.warning(
            "the GPTQ config says %s; %s counts",
            " and ".join(f"{key}={value!r}" for key, value in found),
            found[0][0],
        )
    if found[0][1] == "bitblas":
        raise ConfigError(
            f"GPTQConfig.{found[0][0]}: the layout of BitBLAS is made for one GPU and cannot be "
            f"read; take the checkpoint it was made from, or export it as gptq",
            field="checkpoint_format",
            value="bitblas",
            allowed="one of " + ", ".join(map(repr, FORMATS)),
        )
    return found[0][1]
