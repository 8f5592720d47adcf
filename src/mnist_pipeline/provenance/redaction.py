"""Keeping secrets out of what is recorded or shown: passwords, tokens and signed queries in addresses.

Braces are left alone, so that code which puts an address together stays what it is in a recorded diff.
"""

import re

REDACTED = "***"
"""In place of a secret."""
_USER = re.compile(
    r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)       # postgresql://
        (?:[^\s/?#'"<>{}]+@                      # user@, user:password@
          |[^\s/?#:'"<>{}]*:[^\s@'"<>{}]*@)+     # a password with / or ? in it, which databases put up with
    """,
    re.IGNORECASE | re.VERBOSE,
)
_QUERY = re.compile(
    r"""(?P<name>[?&;#][^\s=&;'"<>{}]*(?:token|key|secret|passw|pwd|sig|credential|auth|sas)[^\s=&;'"<>{}]*=)
        [^\s&;'"<>{}]+
    """,
    re.IGNORECASE | re.VERBOSE,
)


def redact(text: str) -> str:
    """Return `text` with `REDACTED` for the user names, passwords and signatures in its addresses."""
    return _QUERY.sub(rf"\g<name>{REDACTED}", _USER.sub(rf"\g<scheme>{REDACTED}@", text))


def public_uri(uri: str) -> str:
    """Return one address without what could be a secret: user name, password, query, fragment."""
    return re.split(r"[?#]", _USER.sub(r"\g<scheme>", uri), maxsplit=1)[0]
