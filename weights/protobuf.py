"""Protobuf's wire format, read within its bounds and without a schema.

    message    (number of field << 3 | wire type, value) ...
    value      a varint (wire type 0), or bytes of text, a message or packed numbers (2), or 8 or 4 bytes (1, 5)

(protobuf.dev, Encoding.) Bytes are windows into the message. All raise UserError, without a path.
"""

from collections.abc import Iterator
from typing import NamedTuple

from barenets import UserError

Value = int | memoryview
"""A number; or the bytes of text, a message or packed numbers."""


class Field(NamedTuple):
    """A field of a message, with the number that its schema gives it."""

    number: int
    value: Value


def fields(content: memoryview) -> Iterator[Field]:
    """The fields of a message, in the order of the file. Raises UserError where it is none."""
    at = 0
    while at < len(content):
        key, at = varint(content, at)
        wire = key & 7
        if wire == 0:
            value, at = varint(content, at)
            yield Field(key >> 3, value)
            continue
        if wire == 2:
            size, at = varint(content, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise UserError("it is no protobuf message, or a damaged one")
        if at + size > len(content):
            raise UserError(f"it ends in the middle of {size} bytes; is the file complete?")
        yield Field(key >> 3, content[at : at + size])
        at += size


def varint(content: memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next thing stands."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise UserError("it ends in the middle of a number; is the file complete?")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise UserError("it is no protobuf message, or a damaged one")


def packed(value: Value) -> Iterator[int]:
    """The numbers of a repeated field, packed or one of them."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        item, at = varint(value, at)
        yield item


def message(value: Value) -> memoryview:
    """The bytes of a message; raises UserError for a number."""
    if isinstance(value, int):
        raise UserError("it has a number where a message was expected")
    return value


def number(value: Value) -> int:
    """The number; raises UserError for a message."""
    if not isinstance(value, int):
        raise UserError("it has a message where a number was expected")
    return value


def text(value: Value) -> str:
    """UTF-8 text; raises UserError for a number, and for 1,000 bytes or more."""
    content = bytes(message(value)[:1000])
    if len(content) == 1000:
        raise UserError("a name has more than 999 bytes")
    return content.decode("utf-8", "backslashreplace")


def sides(shape: memoryview, at: int) -> list[int]:
    """The numbers of the repeated field `at`, which are the sides of an array: no more than NumPy has."""
    found: list[int] = []
    for place, value in fields(shape):
        for side in packed(value) if place == at else ():
            found.append(side)
            if len(found) > 32:
                raise UserError("an array has more than 32 sides")
    return found
