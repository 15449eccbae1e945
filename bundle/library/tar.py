"""What a tar archive holds, read from its headers alone: nothing is unpacked, and no size is believed before it is checked.

POSIX.1-1988 (ustar) and POSIX.1-2001 (pax) headers, and GNU's long names and large sizes, which is all that tools write of
plain files. The format: https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

from typing import BinaryIO

from ...core.errors import BundleError
from .members import MOST_MEMBERS, Member, member_name

_BLOCK = 512
_LONGEST_HEADER = 2**16
"""Bytes of one extended header."""
_FILES = (b"0", b"\0", b"7")
_FOLDER = b"5"
_PAX, _PAX_OF_ALL, _LONG_NAME = b"x", b"g", b"L"
_KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"K": "a link"}
_SPARSE = "is stored with holes: make the archive without --sparse"


def is_tar(beginning: bytes) -> bool:
    """Tell whether a file that begins with these 512 bytes is a tar archive."""
    return len(beginning) == _BLOCK and any(beginning) and _sum_fits(beginning)


def tar_members(file: BinaryIO, size: int) -> list[Member]:
    """Return the files and folders of an archive of so many bytes, in their order. Raises BundleError, OSError."""
    members: list[Member] = []
    extended: dict[str, str] = {}
    at = headers = 0
    while at < size:
        headers += 1
        if headers > MOST_MEMBERS:
            raise BundleError(f"holds more than {MOST_MEMBERS} entries: a bundle has few files")
        file.seek(at)
        header = file.read(_BLOCK)
        if len(header) == _BLOCK and not any(header):
            break  # two blocks of zeros end an archive; more may follow
        if len(header) < _BLOCK or not _sum_fits(header):
            raise BundleError(f"is damaged at byte {at}: copy it again")
        kind, length = header[156:157], _number(header[124:136], at)
        if kind in (_PAX, _PAX_OF_ALL, _LONG_NAME):
            if length > _LONGEST_HEADER:
                raise BundleError(f"has a header of {length} bytes at byte {at}, at most {_LONGEST_HEADER} are read")
            content = file.read(length)
            if kind == _PAX:
                extended |= _pax(content, at)
            elif kind == _LONG_NAME:
                extended["path"] = _text(content.split(b"\0", 1)[0], at)
            at += _BLOCK + _padded(length)
            continue
        name = extended.get("path") or _name(header, at)
        if any(key.startswith("GNU.sparse") for key in extended) or kind == b"S":
            raise BundleError(f"{name!r} {_SPARSE}")
        if "size" in extended:
            length = _decimal(extended["size"], at)
        if kind not in (*_FILES, _FOLDER):
            raise BundleError(f"{name!r} is {_KINDS.get(kind, 'of an unknown kind')}: a bundle has plain files alone")
        is_folder = kind == _FOLDER or name.endswith("/")
        if kind == _FOLDER:
            length = 0
        if at + _BLOCK + length > size:
            raise BundleError(f"is cut off: {at + _BLOCK + length - size} bytes of {name!r} are missing: copy it again")
        members.append(Member(member_name(name), is_folder, length, at + _BLOCK))
        extended = {}
        at += _BLOCK + _padded(length)
    return members


def _sum_fits(header: bytes) -> bool:
    """Check a header's sum, for which its own eight bytes count as spaces."""
    return _octal(header[148:156]) == sum(header[:148]) + 8 * ord(" ") + sum(header[156:])


def _number(field: bytes, at: int) -> int:
    """Return the number in a header's field: octal digits, or what GNU writes of larger ones."""
    number = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)
    if number is None:
        raise BundleError(f"is damaged at byte {at}: copy it again")
    return number


def _octal(field: bytes) -> int | None:
    """Return the number of octal digits that end with a zero byte or spaces, 0 for none; None for anything else."""
    digits = field.split(b"\0", 1)[0].strip(b" ")
    # Python's own int() would read signs, underscores and prefixes too.
    return int(digits or b"0", 8) if all(digit in b"01234567" for digit in digits) else None


def _decimal(text: str, at: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BundleError(f"is damaged at byte {at}: copy it again")
    return int(text)


def _name(header: bytes, at: int) -> str:
    name = _text(header[:100].split(b"\0", 1)[0], at)
    prefix = _text(header[345:500].split(b"\0", 1)[0], at) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax(content: bytes, at: int) -> dict[str, str]:
    """Return the records "LENGTH KEY=VALUE\\n" of an extended header."""
    found = {}
    while content:
        digits, _, _ = content[:20].partition(b" ")
        length = _decimal(_text(digits, at), at)
        record, content = content[:length], content[length:]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < length or not equals or record[-1:] != b"\n":
            raise BundleError(f"is damaged at byte {at}: copy it again")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse"):
            found[_text(key, at)] = _text(value, at)
    return found


def _text(content: bytes, at: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BundleError(f"has a name at byte {at} that is not UTF-8") from None


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK
