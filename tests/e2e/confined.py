"""
Runs a program within what a systemd unit allows, where systemd itself does not run.

    python confined.py UNIT PROGRAM [ARGUMENT ...]

Of the unit, this obeys CapabilityBoundingSet= (if it is empty), NoNewPrivileges=,
MemoryDenyWriteExecute=, RestrictAddressFamilies= and SystemCallFilter=: the same
filters in the kernel that systemd sets up (systemd.exec(5)), through the same library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_MASKED_EQUAL = 7  # SCMP_CMP_MASKED_EQ
_WHOLE = 0xFFFF_FFFF
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_WRITE, _EXECUTE, _SHM_EXECUTE = 2, 4, 0o100000
_FAMILIES = 46


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
_seccomp.seccomp_init.restype = ctypes.c_void_p
_seccomp.seccomp_load.argtypes = [ctypes.c_void_p]
_seccomp.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
_seccomp.seccomp_rule_add_array.argtypes = [
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.POINTER(_Comparison),
]


def settings(unit: Path) -> dict[str, list[str]]:
    """Each setting's values, in their order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def system_calls(filters: list[str]) -> tuple[set[str], set[str]]:
    """The calls that a unit's SystemCallFilter= allow, and all that systemd has heard of."""
    listing = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sets: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if line.startswith("@"):
            members = sets[line] = []
        elif line.startswith("    ") and line.strip()[0] != "#":
            members.append(line.strip())

    def expand(name: str) -> set[str]:
        return set().union(*map(expand, sets[name])) if name.startswith("@") else {name}

    allowed = expand("@default")
    for line in filters:
        calls = set().union(*map(expand, line.removeprefix("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed, expand("@known")


def _rule(context: int, action: int, call: str, *where: tuple[int, int, int]) -> None:
    """What becomes of a call `where` (argument, mask, value)."""
    number = _seccomp.seccomp_syscall_resolve_name(call.encode())
    if number < 0:
        return  # of another architecture
    comparisons = [_Comparison(argument, _MASKED_EQUAL, *rest) for argument, *rest in where]
    array = (_Comparison * len(where))(*comparisons)
    result = _seccomp.seccomp_rule_add_array(context, action, number, len(where), array)
    assert result == 0, (call, os.strerror(-result))


def _load(context: int) -> None:
    result = _seccomp.seccomp_load(context)
    assert result == 0, os.strerror(-result)


def restrict_families(names: list[str]) -> None:
    """Other sockets than these fail with EAFNOSUPPORT."""
    context = _seccomp.seccomp_init(_ALLOW)
    allowed = {getattr(socket, name) for name in names}
    for family in set(range(_FAMILIES)) - allowed:
        _rule(context, _ERRNO | errno.EAFNOSUPPORT, "socket", (0, _WHOLE, family))
    _load(context)


def restrict_calls(filters: list[str]) -> None:
    """Other calls than these fail with EPERM; what systemd has not heard of, with ENOSYS."""
    allowed, known = system_calls(filters)
    context = _seccomp.seccomp_init(_ERRNO | errno.ENOSYS)
    for call in known | allowed:
        _rule(context, _ALLOW if call in allowed else _ERRNO | errno.EPERM, call)
    _load(context)


def deny_write_execute() -> None:
    """No memory that can be written and executed, at once or one after the other."""
    context = _seccomp.seccomp_init(_ALLOW)
    both = _WRITE | _EXECUTE
    for call, where in (
        ("mmap", (2, both, both)),
        ("mprotect", (2, _EXECUTE, _EXECUTE)),
        ("pkey_mprotect", (2, _EXECUTE, _EXECUTE)),
        ("shmat", (2, _SHM_EXECUTE, _SHM_EXECUTE)),
    ):
        _rule(context, _ERRNO | errno.EPERM, call, where)
    _load(context)


def confine(unit: Path) -> None:
    """This process, and all that it starts."""
    found = settings(unit)
    if found.get("CapabilityBoundingSet") == [""]:
        for capability in range(64):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    assert found["NoNewPrivileges"] == ["yes"]
    assert _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if found.get("MemoryDenyWriteExecute") == ["yes"]:
        deny_write_execute()
    restrict_families(found["RestrictAddressFamilies"][-1].split())
    restrict_calls(found["SystemCallFilter"])


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
