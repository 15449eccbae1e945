"""HTML put together from elements, so that text can only ever be text: what is not made by `element` is escaped."""

from __future__ import annotations

import html

from ...core.errors import one_line

_EMPTY = {"meta", "br", "link", "hr"}


class Safe(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *children: str | None, **attributes: str) -> Safe:
    """Return an element. Children that are not Safe are escaped, as are attributes; None is left out.

    Names of attributes: an underscore at the end is dropped (`class_`), others become hyphens (`aria_label`).
    """
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(one_line(value))}"' for name, value in attributes.items()
    )
    if tag in _EMPTY:
        return Safe(f"<{tag}{told}>")
    return Safe(f"<{tag}{told}>{together(*children)}</{tag}>")


def together(*children: str | None) -> Safe:
    """Return children one after the other, escaped where they are not Safe."""
    return Safe(
        "".join(child if isinstance(child, Safe) else html.escape(one_line(child)) for child in children if child)
    )
