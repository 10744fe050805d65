"""Protobuf's integers: seven bits a byte, the lowest first."""


def varint(number: int) -> bytes:
    """Of a number that is not negative."""
    if number < 0x80:
        return b"%c" % number
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
