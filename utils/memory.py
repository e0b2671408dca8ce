"""The C library's memory, which the CPU's activations come from."""

import ctypes
import platform

# Names and values of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make malloc keep what is freed for the next step instead of giving it back; returns whether it could be set.

    glibc maps every large activation anew and the kernel zeroes its pages each time. Kept memory costs no more at its
    peak and trains about a third faster on a CPU. Elsewhere than on Linux with glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}
    accepted = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(accepted)
