"""Read pickles of plain data: containers, strings, numbers and NumPy scalars, and nothing that could run code.

Unpickling calls whatever the file names. Here the only names admitted are those of NumPy scalars, and they lead to
two small classes of this module that make Python numbers; any other name is refused before it is imported.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from reprlib import repr as brief
from typing import Any, BinaryIO

import numpy as np

SIZE_LIMIT = 1 << 30  # bytes
_NUMBER = re.compile(r"[?]|b1|[iu][1248]|f[248]")  # type codes of booleans, integers and floats


class PickleError(ValueError):
    """A pickle that cannot be read as plain data. The message names file, reason and remedy."""


class _Dtype:
    """Stands in for numpy.dtype: a type code and a byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise pickle.UnpicklingError(f"a NumPy scalar of type {brief(code)}, where only numbers are admitted")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="


class _Scalar:
    """Stands in for NumPy's constructor of scalars: makes a Python number."""

    __slots__ = ()

    def __new__(cls, dtype: _Dtype, data: bytes) -> Any:
        return np.frombuffer(data, np.dtype(dtype.order + dtype.code), count=1)[0].item()


_ADMITTED = {
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which could run code; only NumPy numbers are admitted beside plain data"
            ) from None

    def persistent_load(self, identity: Any) -> Any:
        raise pickle.UnpicklingError(f"it refers to data outside the file (persistent id {brief(identity)})")


def load(path: Path, size_limit: int = SIZE_LIMIT) -> Any:
    """The object in a pickle file.

    Raises:
        PickleError: absent, larger than `size_limit` bytes, cut short, not a pickle, or naming any class but
            NumPy's numbers; nothing the file names is imported or called.
    """
    try:
        size = path.stat().st_size
        if size > size_limit:
            raise PickleError(f"{path}: {size} bytes, over the limit of {size_limit}; split it")
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise PickleError(f"{path}: {error.strerror or error}; check the path") from error


def _read(file: BinaryIO, path: Path) -> Any:
    try:
        return _PlainUnpickler(file).load()
    except pickle.UnpicklingError as error:
        remedy = _REMEDY
        if "truncated" in str(error):
            remedy = "download it again"
        elif "invalid load key" in str(error):  # as text in JSON or CSV has
            remedy = "it is not a pickle, or a damaged one: name the pickled games, or download it again"
        raise PickleError(f"{path}: {error}; {remedy}") from None
    except EOFError:
        raise PickleError(f"{path}: the file ends before the data does; download it again") from None
    except MemoryError:
        raise PickleError(f"{path}: it asks for more memory than there is; download it again") from None
    except Exception as error:  # a damaged stream can raise nearly anything
        raise PickleError(f"{path}: damaged ({type(error).__name__}: {error}); download it again") from None


_REMEDY = "have it written again as dicts, lists, strings and numbers"
