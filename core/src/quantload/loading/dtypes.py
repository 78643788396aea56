"""What a caller may say for a dtype."""

from __future__ import annotations

import torch

from quantload.errors import ConfigError


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The torch dtype; None for "auto" and None.

    Raises:
        ConfigError: it is no floating-point dtype.
    """
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(
            f"dtype={dtype!r}: expected 'auto' or a floating-point dtype such as torch.bfloat16 or "
            f"'bfloat16'",
            field="dtype",
            value=dtype,
            allowed="'auto', or a floating-point torch.dtype or its name",
        )
    return found
