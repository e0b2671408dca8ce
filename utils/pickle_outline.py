"""Looks a pickle through before torch reads it: torch refuses to run code, but a pickle can do harm without any.

A million tuples in one another end the process when they become a key of a mapping; attributes put on a mapping take
the place of its methods. What a file of weights needs is little, so only that is let through.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

MAX_BYTES = 2**23
"""Of a pickle, which holds all but the numbers of the tensors; a network's takes 100,000."""
MAX_OPERATIONS = 1_000_000
"""Of a pickle; a network's takes 10,000, and each identity one."""
MAX_ARGUMENTS = 64
"""Of a call, and numbers in each: a tensor has no more dimensions."""

HasRecord = Callable[[str, int], bool]
"""Whether the file holds the record of a name, and it is of so many bytes."""

_PLAIN = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_PLAIN |= {"BINUNICODE", "SHORT_BINSTRING"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MAPPING, _COUNTER = "collections OrderedDict", "collections Counter"
_FUNCTIONS = {f"torch._utils _rebuild_{what}" for what in ("tensor", "tensor_v2", "tensor_v3", "parameter")}
_FUNCTIONS |= {"torch Size", "torch device"}
_BYTES = {"Bool": 1, "Byte": 1, "Char": 1, "Half": 2, "BFloat16": 2, "Short": 2, "Float": 4, "Int": 4}
_BYTES |= {"Untyped": 1, "Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16}
"""Of one number of a storage, by the first part of the storage's name."""
_STORAGES = {f"{module} {kind}Storage": size for kind, size in _BYTES.items() for module in ("torch", "torch.cuda")}
_STORAGES |= {"torch.storage UntypedStorage": 1}
_MARK = object()


class UnsafeError(Exception):
    """A pickle that must not be loaded; the message says what is in it."""


class _Global(str):
    """A class or function, by its module and name."""

    __slots__ = ()


class _Called(str):
    """What a call returns, by what was called."""

    __slots__ = ()


class _Mapping:
    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.has_attributes = False


class _List(list[Any]):
    """A list, and whether a mapping was already made of it."""

    used = False


def check_pickle(file: BinaryIO, has_record: HasRecord) -> None:
    """See that the pickle at a file's position holds only tensors and plain values, as torch.save writes them.

    The position is behind the pickle afterwards.

    Raises:
        UnsafeError: it holds something else.
        Exception: of many kinds: it is no pickle.
    """
    stack, memo, start = [], {}, file.tell()
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if count >= MAX_OPERATIONS or file.tell() - start > MAX_BYTES:
            raise UnsafeError("what describes the tensors takes more room than that of any network")
        match operation.name:
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPERSID":
                stack.append(_storage(stack.pop(), has_record))
            case name:
                _step(name, argument, stack)


def _step(name: str, argument: Any, stack: list[Any]) -> None:
    """One operation; changes the stack as unpickling does, with outlines of the values on it."""
    match name:
        case "PROTO" | "STOP":
            pass
        case _ if name in _PLAIN:
            stack.append(argument)
        case "MARK":
            stack.append(_MARK)
        case "EMPTY_DICT":
            stack.append(_Mapping())
        case "EMPTY_LIST":
            stack.append(_List())
        case "TUPLE":
            stack.append(tuple(_popped_to_mark(stack)))
        case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
            count = _TUPLES[name]
            stack[len(stack) - count :] = [tuple(stack[len(stack) - count :])]
        case "APPEND" | "APPENDS":
            items = [stack.pop()] if name == "APPEND" else _popped_to_mark(stack)
            _of_kind(stack[-1], _List).extend(items)
        case "SETITEM" | "SETITEMS":
            items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else _popped_to_mark(stack)
            _of_kind(stack[-1], _Mapping).keys.extend(map(_key, items[::2]))
        case "GLOBAL":
            stack.append(_global(argument))
        case "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        case "BUILD":
            attributes = _of_kind(stack.pop(), _Mapping).keys
            # All that a network's state dict brings along; another attribute might pass for a method.
            if attributes != ["_metadata"] or not _of_kind(stack[-1], _Mapping).has_attributes:
                raise UnsafeError("it sets attributes")
        case _:
            raise UnsafeError(f"torch.save does not write {name}")


def _global(name: str) -> _Global:
    """A class or function, if a file of weights needs it."""
    kind = getattr(torch, name.removeprefix("torch "), None) if name.startswith("torch ") else None
    if name in _FUNCTIONS or name in (_MAPPING, _COUNTER) or name in _STORAGES or isinstance(kind, torch.dtype):
        return _Global(name)
    raise UnsafeError(f"it holds code, or a type other than tensors and plain values: {name.replace(' ', '.')!a}")


def _call(function: Any, arguments: Any) -> Any:
    """What a call returns, if it is one that torch.save writes."""
    function, arguments = _of_kind(function, _Global), _of_kind(arguments, tuple)
    if function in _FUNCTIONS:
        # Each call copies what it is given, which may be the same large value a million times.
        if any(len(each) > MAX_ARGUMENTS for each in (arguments, *(a for a in arguments if isinstance(a, tuple)))):
            raise UnsafeError(f"it calls {function.replace(' ', '.')} with more than {MAX_ARGUMENTS} numbers")
        return _Called(function)
    mapping = _Mapping()
    mapping.has_attributes = function == _MAPPING
    match arguments:
        case ():
            return mapping
        case (_List() as pairs,) if function == _MAPPING and not pairs.used:
            # As Python 2 wrote it.
            pairs.used = True
            mapping.keys.extend(_key(key) for key, _ in (_of_kind(pair, _List) for pair in pairs))
            return mapping
        case (_Mapping() as counts,) if function == _COUNTER and len(counts.keys) <= MAX_ARGUMENTS:
            mapping.keys.extend(counts.keys)
            return mapping
    raise UnsafeError(f"torch.save does not write such a call of {function.replace(' ', '.')}")


def _storage(identity: Any, has_record: HasRecord) -> _Called:
    """The numbers of a tensor, whose place in the file is given by a tuple."""
    what, kind, key, place, count, *view = _of_kind(identity, tuple)
    known = what == "storage" and isinstance(kind, _Global) and kind in _STORAGES and not any(view)
    if not known or type(place) is not str or type(count) is not int or count < 0:
        raise UnsafeError("it holds something other than the numbers of tensors")
    if not has_record(_of_kind(key, str), count * _STORAGES[kind]):
        raise UnsafeError("a tensor's numbers are not of the size that it says")
    return _Called(kind)


def _popped_to_mark(stack: list[Any]) -> list[Any]:
    """What lies above the last mark, which is taken away too."""
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _key(value: Any) -> Any:
    """A key of a mapping; another than these takes as long to compare as its maker likes."""
    if type(value) is str or (type(value) is int and -(2**63) <= value < 2**63):
        return value
    raise UnsafeError("it holds a mapping of other things than names and whole numbers")


def _of_kind(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise UnsafeError("torch.save does not write such a sequence")
    return value
