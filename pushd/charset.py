"""
Text in the charsets that the web uses.

Not every codec of Python's: some are no charsets at all (``idna``,
``undefined``), and some take the square of the text's length (``punycode``).
"""

from __future__ import annotations

import codecs
import re

_USUAL = re.compile(
    r"utf-8|utf-16|utf-16-[bl]e|utf-32|utf-32-[bl]e|ascii|iso8859-\d+|cp125\d|koi8-[ru]"
    r"|big5|euc_jp|euc_kr|gb18030|gb2312|gbk|shift_jis|cp932|mac-roman"
)
"""By the names that Python's codecs give themselves; compare WHATWG Encoding, section 4.2."""


def decode(data: bytes, charset: str) -> str:
    """
    `data` as text.

    :raises ValueError: there is no such charset, or the data is not in it.
    """
    try:
        codec = codecs.lookup(charset)
    except LookupError as error:
        raise ValueError(f"unknown charset {charset!r}") from error
    if not _USUAL.fullmatch(codec.name):
        raise ValueError(f"charset {charset!r} is not supported")
    text = codec.decode(data, "strict")[0]
    text.encode()  # a surrogate by itself is no text
    return text
