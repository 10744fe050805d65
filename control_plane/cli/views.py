"""Messages as plain values: what `-o json` prints."""

import base64
from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from control_plane.cli.options import level_name

# Fields of map.proto that hold a Consistency as a number, so that map.proto needs no data.proto.
_LEVEL_FIELDS = frozenset({"read_consistency", "write_consistency"})


def plain(message: Message) -> dict[str, object]:
    """Every field of a message under its own name.

    Numbers stay numbers (64-bit ones too), bytes become hexadecimal text, enumerations their short
    name, and a message that is not set is null.
    """
    return {
        field.name: _plain_field(
            cast(FieldDescriptor, field), getattr(message, field.name), message
        )
        for field in message.DESCRIPTOR.fields
    }


def _plain_field(field: FieldDescriptor, value: Any, owner: Message) -> object:
    if field.is_repeated:
        return [_plain_value(field, item) for item in value]
    if field.message_type is not None and not owner.HasField(field.name):
        return None
    return _plain_value(field, value)


def _plain_value(field: FieldDescriptor, value: object) -> object:
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, bytes):
        return value.hex()
    if field.name in _LEVEL_FIELDS and isinstance(value, int):
        return level_name(value)
    if field.enum_type is not None and isinstance(value, int):
        return short_name(field.enum_type, value)
    return value


def short_name(enumeration: EnumDescriptor, number: int) -> str:
    """NODE_STATE_ACTIVE of NodeState -> "ACTIVE"; an unknown number -> its digits."""
    known = enumeration.values_by_number.get(number)
    if known is None:
        return str(number)
    snake = "".join(f"_{c}" if c.isupper() else c.upper() for c in enumeration.name).lstrip("_")
    return str(known.name).removeprefix(f"{snake}_")


def bytes_view(name: str, value: bytes) -> Mapping[str, str]:
    """`value` as text under `name`; when it is not UTF-8, also `<name>_base64`, the bytes."""
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        text = value.decode("utf-8", "backslashreplace")
        return {name: text, f"{name}_base64": base64.b64encode(value).decode()}


def shown(value: bytes) -> str:
    """For a terminal: the text itself when every character can be shown, else Python's notation."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return repr(value)
    printable = all(c.isprintable() or c in "\n\t" for c in text)
    return text if printable else repr(value)
