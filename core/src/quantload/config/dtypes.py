"""dtypes in configs: names on disk, `torch.dtype` for people, no torch until one is read."""

from __future__ import annotations

from typing import Any

from quantload.errors import ConfigError

_ALIASES = {
    "half": "float16",
    "fp16": "float16",
    "bf16": "bfloat16",
    "float": "float32",
    "fp32": "float32",
    "double": "float64",
}
FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")
STORAGE_DTYPES = ("uint8", "int8", "int16", "int32", "int64", *FLOAT_DTYPES)


def is_torch_dtype(value: object) -> bool:
    """Whether `value` is a `torch.dtype`, without importing torch to find out."""
    kind = type(value)
    return kind.__module__ == "torch" and kind.__name__ == "dtype"


def dtype_name(value: object) -> str | None:
    """The plain name ("bfloat16") of a `torch.dtype` or of a string spelling; None for others."""
    if is_torch_dtype(value):
        return str(value).removeprefix("torch.")
    if isinstance(value, str):
        name = value.removeprefix("torch.")
        return _ALIASES.get(name, name)
    return None


class DtypeField:
    """A dataclass field that holds a dtype.

    It accepts a `torch.dtype` or its name, keeps the name (so that configs are
    JSON and need no torch), and gives the `torch.dtype` when it is read.

    Args:
        default: name of the default dtype; None makes the field optional.
        choices: the names that are allowed.
        loading: see `quantload.config.fields.option`.
        inert: see `quantload.config.fields.option`.
    """

    def __init__(
        self,
        default: str | None,
        *,
        choices: tuple[str, ...] = FLOAT_DTYPES,
        loading: bool = False,
        inert: bool = False,
    ) -> None:
        self.default = default
        self.choices = choices
        self.loading = loading
        self.inert = inert
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        if obj is None:
            return self.default
        name = obj.__dict__[self.name]
        if name is None:
            return None
        import torch

        return getattr(torch, name)

    def __set__(self, obj: Any, value: Any) -> None:
        if value is None and self.default is None:
            obj.__dict__[self.name] = None
            return
        name = dtype_name(value)
        if name not in self.choices:
            allowed = "a torch.dtype or its name: " + ", ".join(self.choices)
            raise ConfigError(
                f"{type(obj).__name__}.{self.name}: found {value!r}, expected {allowed}",
                field=self.name,
                value=value,
                allowed=allowed,
            )
        obj.__dict__[self.name] = name
