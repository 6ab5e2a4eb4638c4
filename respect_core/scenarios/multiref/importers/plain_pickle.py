"""Read pickles of plain data: containers, strings, numbers and NumPy scalars, and nothing that could run code.

Unpickling calls whatever the file names. Here only the names of NumPy scalars are admitted, and they map to two small
classes of this module that make Python numbers; any other name is refused before it is imported. The opcodes are
checked before anything is built: a few bytes can ask for gigabytes, or for more nesting than the interpreter survives.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from pathlib import Path
from reprlib import repr as brief
from typing import Any, BinaryIO

import numpy as np

from respect_core.errors import ExpectedError

SIZE_LIMIT = 1 << 30  # bytes
DEPTH_LIMIT = 50  # containers in containers; the study's games have 8
_NUMBER = re.compile(r"[?]|b1|[iu][1248]|f[248]")  # type codes of booleans, integers and floats


class PickleError(ExpectedError, ValueError):
    """A pickle that cannot be read as plain data. The message names file, reason and remedy."""


class _Dtype:
    """Stand-in for numpy.dtype: a type code and a byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, _align: bool = False, _copy: bool = False) -> None:
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise pickle.UnpicklingError(f"a NumPy scalar of type {brief(code)}, where only numbers are admitted")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="


class _Scalar:
    """Stand-in for NumPy's scalar constructor, which makes a Python number."""

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
    """Load the object in a pickle file.

    Raises:
        PickleError: absent, larger than `size_limit` bytes, cut short, not a pickle, nested deeper than DEPTH_LIMIT,
            or naming any class but NumPy's numbers; nothing the file names is imported or called.
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
        start = file.read(1)
        if start and start not in _OPCODES:
            raise PickleError(f"{path}: this is no pickle, it begins with {start!r}; give the pickled file itself")
        file.seek(0)
        _check_nesting(file)
        file.seek(0)
        return _PlainUnpickler(file).load()
    except PickleError:
        raise
    except pickle.UnpicklingError as error:
        remedy = "download it again" if "truncated" in str(error) else _REMEDY
        raise PickleError(f"{path}: {error}; {remedy}") from None
    except EOFError:
        raise PickleError(f"{path}: the file ends before the data does; download it again") from None
    except MemoryError:
        raise PickleError(f"{path}: it asks for more memory than there is; download it again") from None
    except Exception as error:  # a damaged stream can raise nearly anything
        raise PickleError(f"{path}: damaged ({type(error).__name__}: {error}); download it again") from None


_OPCODES = {opcode.code.encode("latin-1") for opcode in pickletools.opcodes}
_PUT, _GET = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_ADDS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}


def _check_nesting(file: BinaryIO) -> None:
    """Track how deep each object on the unpickler's stack is, without building any.

    Raises:
        UnpicklingError: an object nests too deep, or a memo index is beyond what the file could have filled.
        ValueError: not a pickle, or cut short.
    """
    depths: list[int] = []  # one per object on the stack
    marks: list[int] = []
    memo: dict[int, int] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if name in _PUT or name in _GET or name == "MEMOIZE":
            place = len(memo) if argument is None else int(argument)
            if not 0 <= place <= number:
                raise pickle.UnpicklingError(f"it asks for place {place} of its memo at its step {number}")
            if name in _GET:
                depths.append(memo.get(place, 0))
            else:
                memo[place] = depths[-1]
        elif name == "MARK":
            marks.append(len(depths))
        elif name == "POP" and marks and marks[-1] == len(depths):
            marks.pop()
        elif name == "DUP":
            depths.append(depths[-1])
        else:
            depths += _pushed_depths(opcode, _pop_depths(opcode, depths, marks))
        if depths and depths[-1] > DEPTH_LIMIT:
            raise pickle.UnpicklingError(f"it nests containers more than {DEPTH_LIMIT} deep")


def _pop_depths(opcode: pickletools.OpcodeInfo, depths: list[int], marks: list[int]) -> list[int]:
    """Remove from `depths` what an opcode pops, and return it."""
    before = opcode.stack_before
    fixed = before.index(pickletools.markobject) if pickletools.markobject in before else None
    first = len(depths) - len(before) if fixed is None else marks.pop() - fixed
    if first < 0:
        raise ValueError("it takes more than there is")
    popped = depths[first:]
    del depths[first:]
    return popped


def _pushed_depths(opcode: pickletools.OpcodeInfo, popped: list[int]) -> list[int]:
    """Return the depths of what an opcode pushes, given those that it popped."""
    if opcode.name in _ADDS:
        return [max(popped[0], 1 + max(popped[1:], default=-1))]
    return [1 + max(popped)] * len(opcode.stack_after) if popped else [0] * len(opcode.stack_after)


_REMEDY = "have it written again as dicts, lists, strings and numbers"
