"""Equal conditions for every turn: a file system that was just made, and memory that was touched before.

A file system remembers: ext4 passes over the inodes that were deleted in the last minutes, so the turn after a large
`rm -rf` pays for it. The memory of a virtual machine is slow when it is used for the first time. Without this, the order
of the turns decides the figures.
"""

import mmap
import os
import subprocess
import time

from .measure import Failed

CHUNK_BYTES = 64 << 20
# More than a turn reads and writes, which all passes through the page cache.
TOUCHED_BYTES = 5 << 30


class Disk:
    """An ext4 file system on a loop device, mounted at `path`; `renew` recreates it."""

    def __init__(self, image, path, size_bytes):
        self.image, self.path, self.mounted = image, path, False
        os.makedirs(path)
        # Fully written once, so that no turn pays for the allocation of the image.
        with open(image, "wb") as file:
            zeros = bytes(CHUNK_BYTES)
            for _ in range(-(-size_bytes // CHUNK_BYTES)):
                file.write(zeros)
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        # Without direct I/O, the kernel would cache everything twice.
        try:
            self.device = command("losetup", "--find", "--show", "--direct-io=on", image)
        except Failed as failed:
            raise Failed(f"every turn needs a loop device, which a container rarely has: {failed}")

    def renew(self):
        self.unmount()
        # Leaves nothing to be initialized in the background.
        command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", self.device)
        command("mount", self.device, self.path)
        os.rmdir(f"{self.path}/lost+found")
        self.mounted = True

    def unmount(self):
        """Unmounts it; waits for processes of the last turn that have not ended yet."""
        ends = time.monotonic() + 30
        while self.mounted:
            try:
                command("umount", self.path)
                self.mounted = False
            except Failed:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.1)

    def close(self):
        self.unmount()
        command("losetup", "--detach", self.device)
        os.unlink(self.image)


def touch_memory():
    """Touches as much memory as a turn uses, which the kernel then allocates first."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemFree:"))
    wanted = min(TOUCHED_BYTES, free // 10 * 9)
    mmap.mmap(-1, wanted, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def command(*arguments):
    result = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        raise Failed(f"{' '.join(arguments)}: status {result.returncode}\n{result.stdout}")
    return result.stdout.strip()
