"""What a forward pass frees, the process keeps for the next one.

Left to itself, the C library gives blocks of megabytes back to the system after each batch and asks for them again in
the next: some ten thousand pages, each zeroed and out of every cache, which costs up to a tenth of the time
(docs/log.md). The peak is the same; it is only not given back between batches.
"""

import ctypes
import os

# glibc's mallopt(3): the environment variable that a user may have set instead, the number of the parameter, bytes.
_PARAMETERS = (
    ("MALLOC_MMAP_THRESHOLD_", -3, 32 << 20),  # blocks up to this come from the heap; the most that glibc takes
    ("MALLOC_TRIM_THRESHOLD_", -1, 256 << 20),  # so much may lie free at a heap's end; a batch needs some 30 MB
    ("MALLOC_TOP_PAD_", -2, 64 << 20),  # what threads have for heaps, which are given back whole otherwise
)


def keep_freed() -> None:
    """Of the parameters those that the environment does not set, where the C library is glibc; elsewhere nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; TypeError: Windows
        return
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    for name, parameter, size in _PARAMETERS:
        if name not in os.environ and not tuned:
            mallopt(parameter, size)
