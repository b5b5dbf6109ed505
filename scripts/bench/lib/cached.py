"""Measures which parts of files are in the page cache."""

import ctypes
import mmap
import os

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE_BYTES = mmap.PAGESIZE
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def relations(cluster):
    """The relation files of at least 1 MiB, sorted."""
    found = [os.path.join(path, name) for path, _, names in os.walk(f"{cluster}/base") for name in names]
    return sorted(path for path in found if os.path.getsize(path) >= 1 << 20)


def keep_half(paths):
    """Reads every second file into the cache; returns these files, and the others."""
    working, others = paths[::2], paths[1::2]
    for path in working:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
    return working, others


def cached_bytes(paths):
    """Number of bytes of these files in the cache."""
    return sum(map(cached_bytes_of, paths))


def cached_bytes_of(path):
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0
        # Uses libc, because the mmap module reveals the address of a writable mapping only.
        address = LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap", path)
        pages = (ctypes.c_ubyte * -(-size // PAGE_BYTES))()
        try:
            if LIBC.mincore(address, size, pages) != 0:
                raise OSError(ctypes.get_errno(), "mincore", path)
        finally:
            LIBC.munmap(address, size)
        return sum(page & 1 for page in pages) * PAGE_BYTES
