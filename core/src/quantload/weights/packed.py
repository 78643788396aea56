"""`PackedWeight`: a weight that stays in its quantized storage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantload.errors import UnsupportedOperationError
from quantload.weights.autograd import linear_through
from quantload.weights.joining import joined, outline
from quantload.weights.moving import destination, moved

if TYPE_CHECKING:
    from typing_extensions import Self

    from quantload.kernels.contract import Kernel
    from quantload.kernels.selector import Selection


class PackedWeight(nn.Module):
    """Base of every layout: a class that knows how its bytes become numbers.

    A subclass names its layout, keeps its tensors with `store`, and implements
    `decode`. Everything else has a correct default that a subclass may better.

    The storage is opaque: `.half()`, `.to(dtype)` and their kin change the compute
    dtype and nothing else, and no forward pass changes a byte of it.

    Args:
        shape: logical shape, `(out_features, in_features)`.
        dtype: compute dtype, which the weight claims to have.
    """

    layout: ClassVar[str] = ""
    """Name of the layout, by which kernels recognise it."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self._shape = torch.Size(shape)
        self._dtype = dtype
        self._kernel: Kernel | None = None
        self._arranged = False
        self.selection: Selection | None = None
        self._is_hf_initialized = True
        self.training = False

    # -- what a subclass says ------------------------------------------------------

    def store(self, name: str, tensor: Tensor | None) -> None:
        """Keep a tensor of the storage under `name`; None keeps the name free."""
        self.register_parameter(name, None if tensor is None else frozen(tensor))

    @abstractmethod
    def decode(self, dtype: torch.dtype) -> Tensor:
        """The weight as a new `[out_features, in_features]` tensor, from canonical storage.

        With `torch.float32` nothing on the way is rounded to a narrower type.
        """

    def decode_rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the weight, `[*ids.shape, in_features]`; the default decodes all of it."""
        return self.decode(dtype)[ids]

    def kernel_params(self) -> Mapping[str, Any]:
        """What kernels must know of this weight (bits, group size) to say if they run it."""
        return {}

    # -- what everybody uses ---------------------------------------------------------

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight as a float tensor `[out_features, in_features]`.

        Args:
            dtype: dtype of the result; the compute dtype where None.
        """
        self._refuse_meta("dequantize")
        return self.canonical().decode(dtype or self._dtype)

    def linear(self, x: Tensor) -> Tensor:
        """`x @ W.T` for `x` of shape `[..., in_features]`, computed and returned in `x.dtype`."""
        if self.is_meta:
            self._refuse_meta("multiply with")
        if self._kernel is not None:
            return self._kernel.linear(self, x)
        return linear_through(self, x)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows by number, as an embedding gives them: `[*ids.shape, in_features]`."""
        self._refuse_meta("read rows of")
        return self.canonical().decode_rows(ids, self._dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`linear` for a float tensor, `rows` for integers.

        Hosts call the weight this way, for offloading hooks fire on `forward`.
        """
        return self.linear(x) if x.is_floating_point() else self.rows(x)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """`F.linear(x, weight, bias)` and `weight @ x`, for modules that multiply in these ways.

        Raises:
            UnsupportedOperationError: it was given to any other function of torch.
        """
        if func is F.linear:
            x, weight, bias = _linear_arguments(*args, **(kwargs or {}))
            if isinstance(weight, PackedWeight) and isinstance(x, Tensor):
                y = weight(x)
                return y if bias is None else y + bias
        if func in _TIMES and len(args) == 2 and args[0].dim() > 1:
            x, weight = args  # as `x.__rmatmul__(weight)`
            return weight(x.mT).mT
        raise UnsupportedOperationError(
            f"torch's {getattr(func, '__name__', func)} cannot take a {cls.__name__}: its storage "
            f"is packed; call the weight, or use .dequantize() for a float copy"
        )

    # -- kernels ---------------------------------------------------------------------

    def repack(self, kernel: Kernel | None) -> None:
        """Let `kernel` run this weight, in its own arrangement of the storage.

        The arrangement replaces the canonical storage; there are never two copies.
        None goes back to the canonical storage and the reference.
        """
        if self._kernel is not None and self._arranged:
            self._replace_storage(self._kernel.restore(self))
        self._kernel, self._arranged = None, False
        if kernel is None:
            return
        arrangement = kernel.arrange(self)
        if arrangement is not None:
            self._replace_storage(arrangement)
            self._arranged = True
        self._kernel = kernel

    @property
    def kernel(self) -> Kernel | None:
        """The kernel in use; None means the plain-torch reference."""
        return self._kernel

    def canonical(self) -> Self:
        """This weight in canonical storage: itself, or a copy where a kernel rearranged it."""
        if self._kernel is None or not self._arranged:
            return self
        twin = self._twin()
        twin._kernel, twin._arranged = None, False
        restored = self._kernel.restore(self)
        if torch.compiler.is_compiling():  # no parameter can be made there, and none is needed
            twin._parameters = dict(restored)  # type: ignore[arg-type]  # tensors serve as well
        else:
            twin._replace_storage(restored)
        return twin

    def with_storage(self, tensors: Mapping[str, Tensor]) -> Self:
        """A weight of the same kind over other tensors of the same form, for one product."""
        twin = self._twin()
        twin._parameters.update(tensors)  # type: ignore[arg-type]  # tensors serve as well
        return twin

    @property
    def arranged(self) -> bool:
        """Whether the storage is in the arrangement of the kernel, and not canonical."""
        return self._arranged

    def _twin(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._parameters = dict(self._parameters)
        return twin

    def _replace_storage(self, tensors: Mapping[str, Tensor | None]) -> None:
        for name in tuple(self._parameters):
            del self._parameters[name]
        for name, tensor in tensors.items():
            self.store(name, tensor)

    def storage(self) -> dict[str, Tensor]:
        """The tensors that are kept now, by name."""
        return {k: p.detach() for k, p in self._parameters.items() if p is not None}

    def shard(self, dim: int, rank: int, world: int) -> Self:
        """The part of one of `world` processes: rows (`dim` 0) or columns (`dim` 1).

        Raises:
            UnsupportedOperationError: the layout cannot be split this way.
        """
        raise UnsupportedOperationError(
            f"{type(self).__name__} cannot be split along dimension {dim} "
            f"(part {rank} of {world}): the layout does not say how"
        )

    def outline(self, dim: int) -> Self:
        """What this weight leaves behind when it is split, so that its parts can be joined.

        It is on meta, but for what the parts along `dim` do not hold (see `kept_apart`).
        """
        return outline(self, self.kept_apart(dim))

    def joined(self, parts: Sequence[Self], dim: int) -> Self:
        """The whole again from all parts in order, byte for byte; for an outline.

        Raises:
            UnsupportedOperationError: the layout does not say how, or the parts do not fit.
        """
        return joined(self, parts, dim)

    def kept_apart(self, dim: int) -> tuple[str, ...]:
        """Names of the stored tensors that cannot be put together from parts along `dim`."""
        return ()

    def join_stored(self, name: str, pieces: Sequence[Tensor], dim: int) -> Tensor:
        """One stored tensor from those of all parts, in order.

        A layout that can be split says it here; without it split weights run and are not saved.

        Raises:
            UnsupportedOperationError: the layout does not say how.
        """
        raise UnsupportedOperationError(
            f"{name} of {len(pieces)} {type(self).__name__} that were split along dimension {dim} "
            f"cannot be joined: the layout does not say how (join_stored)"
        )

    # -- what code around models asks a weight ---------------------------------------

    @property
    def shape(self) -> torch.Size:
        """Logical shape, `(out_features, in_features)`."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Compute dtype."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where the storage is."""
        for parameter in self._parameters.values():
            if parameter is not None:
                return parameter.device
        return _CPU

    @property
    def is_meta(self) -> bool:
        """Whether the storage has no bytes yet (or has been offloaded)."""
        for parameter in self._parameters.values():
            if parameter is not None:
                return parameter.is_meta
        return False

    @property
    def ndim(self) -> int:
        """Number of logical dimensions."""
        return len(self._shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the storage."""
        return sum(p.nbytes for p in self._parameters.values() if p is not None)

    @property
    def requires_grad(self) -> bool:
        """Always False: packed weights are not trained."""
        return False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value:
            raise UnsupportedOperationError("a packed weight cannot require a gradient")

    @property
    def data(self) -> Tensor:
        """Refused: the bytes are not the numbers. Use `dequantize()`."""
        raise UnsupportedOperationError(
            f"a packed weight ({type(self).__name__}) has no .data: use .dequantize() for a float "
            f"copy (PEFT can merge adapters into packed weights, and start them from there, after "
            f"quantload.enable_peft(); adapters that read the weight in each step need floats: "
            f"quantload.dequantize(model))"
        )

    def dim(self) -> int:
        """Number of logical dimensions."""
        return len(self._shape)

    def numel(self) -> int:
        """Number of logical elements."""
        return self._shape.numel()

    def size(self, dim: int | None = None) -> Any:
        """Logical shape, or one of its dimensions."""
        return self._shape if dim is None else self._shape[dim]

    def extra_repr(self) -> str:
        """For `print(model)`."""
        kernel = self._kernel.name if self._kernel else "reference"
        return f"{tuple(self._shape)}, compute={self._dtype}, bytes={self.nbytes}, kernel={kernel}"

    # -- moving and copying ----------------------------------------------------------

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Change the compute dtype; the storage stays as it is."""
        self._dtype = dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        here = self.device
        there, dtype = destination(fn, here, self._dtype)
        kernel = self._kernel
        leaving = kernel is not None and there.type != here.type
        if leaving:
            self.repack(None)
        for name, parameter in self._parameters.items():
            if parameter is not None:
                self._parameters[name] = frozen(moved(fn, parameter))
        self._dtype = dtype
        if leaving and there.type != "meta":
            from quantload.kernels.selector import prepare

            prepare(self, self.selection.asked if self.selection else None)
        return self

    def train(self, mode: bool = True) -> Self:
        """As for every module; it also gives the storage back the dtypes it was stored with.

        PEFT's `prepare_model_for_kbit_training` casts whatever parameter is half precision,
        scales among them, and switches the mode next.
        """
        for parameter in self.parameters(recurse=False):
            stored = getattr(parameter, _STORED, parameter.dtype)
            if parameter.dtype != stored:
                parameter.data = parameter.data.to(stored)
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the canonical storage, whatever kernel is in use."""
        state = dict(self.canonical().__dict__)
        state["_kernel"], state["_arranged"] = None, False
        state["_had_kernel"] = self._kernel is not None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        had_kernel = state.pop("_had_kernel", False)
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not annotate it
        if had_kernel and not self.is_meta:
            from quantload.kernels.selector import prepare

            prepare(self, self.selection.asked if self.selection else None)

    def _refuse_meta(self, verb: str) -> None:
        if self.is_meta:
            raise UnsupportedOperationError(
                f"cannot {verb} a {type(self).__name__} on the meta device: its bytes are not "
                f"loaded, or are offloaded; call the module that hosts it"
            )


_TIMES = (Tensor.__rmatmul__,)


def _linear_arguments(
    input: Any,  # noqa: A002  named as in F.linear
    weight: Any,
    bias: Any = None,
) -> tuple[Any, Any, Any]:
    return input, weight, bias


def frozen(tensor: Tensor) -> nn.Parameter:
    """A parameter that is never trained nor initialised again, over the tensor's own bytes."""
    parameter = nn.Parameter(tensor.detach(), requires_grad=False)
    parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # read by transformers
    setattr(parameter, _STORED, tensor.dtype)
    return parameter


_STORED = "_quantload_dtype"
_CPU = torch.device("cpu")
