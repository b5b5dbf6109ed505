"""What a command costs: wall time, and CPU seconds and memory of every process that it starts.

Each contestant runs in a control group of its own (version 2, which every Linux of today has; the group's `cpu.stat`
counts without any controller). So an agent that was detached, or a worker that outlives the command, counts as well.
Memory is the sum of the proportional set sizes of all processes of the group, looked at every 20 ms: a page that several
processes share is counted once, and what lives for a shorter time is seen by luck only.
"""

import itertools
import os
import re
import shlex
import signal
import subprocess
import threading
import time

OWNER = "postgres"
SAMPLE_S = 0.02


class Failed(Exception):
    """A measurement that cannot continue; its text is the reason."""


def cgroup_root():
    with open("/proc/mounts") as mounts:
        for line in mounts:
            _, path, kind, *_ = line.split()
            if kind == "cgroup2":
                return path
    raise Failed("there is no control group file system of version 2 mounted")


class Tree:
    """The processes of one contestant."""

    numbers = itertools.count(1)

    def __init__(self, name):
        self.path = f"{cgroup_root()}/pgark-bench-{os.getpid()}-{next(self.numbers)}-{name}"
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise Failed(f"could not make a control group, which root may where it is not read-only: {error}")

    def processes(self):
        with open(f"{self.path}/cgroup.procs") as file:
            return [int(line) for line in file]

    def cpu_s(self):
        with open(f"{self.path}/cpu.stat") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("usage_usec")) / 1e6

    def resident_bytes(self):
        kilobytes = 0
        for process in self.processes():
            try:
                with open(f"/proc/{process}/smaps_rollup") as file:
                    kilobytes += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
            except OSError:
                pass  # it has ended
        return kilobytes * 1024

    def settle(self, deadline_s=60):
        """Waits until all processes are idle, because work after the last answer is part of the cost."""
        ends, before = time.monotonic() + deadline_s, self.cpu_s()
        while time.monotonic() < ends:
            time.sleep(0.3)
            now = self.cpu_s()
            if now - before < 0.001:
                return
            before = now

    def popen(self, arguments, **options):
        """Starts a command as the owner in the tree."""
        enter = f'echo $$ >{self.path}/cgroup.procs; exec setpriv --reuid={OWNER} --regid={OWNER} --init-groups "$@"'
        return subprocess.Popen(["sh", "-c", enter, "sh", *arguments], **options)

    def close(self):
        """Ends all running processes."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for _ in range(100):
                processes = self.processes()
                if not processes:
                    break
                for process in processes:
                    try:
                        os.kill(process, number)
                    except ProcessLookupError:
                        pass
                time.sleep(0.05)
        os.rmdir(self.path)


class Shell:
    """A shell in the tree that runs commands sequentially, each in a `sh -c` of its own, as the server does."""

    LOOP = 'while read -r line; do sh -c "$line" </dev/null >>"$0" 2>&1; echo $?; done'

    def __init__(self, tree, directory, log, environment=None):
        self.log = log
        self.process = tree.popen(
            ["sh", "-c", self.LOOP, log],
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.call("true")

    def call(self, line):
        """Runs a command; returns its exit status and run time in seconds."""
        began = time.perf_counter()
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        status = self.process.stdout.readline()
        seconds = time.perf_counter() - began
        if not status:
            raise Failed(f"the shell of this contestant has ended: {self.log}")
        return int(status), seconds

    def must(self, line):
        status, seconds = self.call(line)
        if status != 0:
            with open(self.log) as log:
                raise Failed(f"{line}: status {status}\n" + "".join(log.readlines()[-5:]))
        return seconds

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Cost:
    """Context manager that measures `wall_s` (unless set by hand), `cpu_s` and `peak_bytes`."""

    def __init__(self, tree, *others):
        self.tree, self.others = tree, others
        self.wall_s = None

    def __enter__(self):
        os.sync()  # writes left over by others do not count
        self.peak_bytes, self.stop = 0, threading.Event()
        self.sampler = threading.Thread(target=self.sample)
        self.cpu_before = self.cpu_now()
        self.sampler.start()
        self.began = time.perf_counter()
        return self

    def cpu_now(self):
        return sum(tree.cpu_s() for tree in (self.tree, *self.others))

    def sample(self):
        while not self.stop.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, self.tree.resident_bytes())

    def __exit__(self, *_):
        if self.wall_s is None:
            self.wall_s = time.perf_counter() - self.began
        self.tree.settle()
        self.stop.set()
        self.sampler.join()
        self.cpu_s = self.cpu_now() - self.cpu_before


def run(arguments, **options):
    """Runs a command as the owner without measuring it; returns its output."""
    command = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if result.returncode != 0:
        raise Failed(f"{shlex.join(arguments)}: status {result.returncode}\n{result.stdout[-2000:]}")
    return result.stdout.strip()


def forget_cached(directory):
    """Drops the files below a directory from the page cache: restores rarely find their files cached."""
    os.sync()
    for path, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stored_bytes(directory):
    """Total size of all files below a directory, in bytes."""
    return sum(os.lstat(os.path.join(path, name)).st_size for path, _, names in os.walk(directory) for name in names)


def bytes_read(trace, directory):
    """Number of bytes read from files below a directory, from the output of `strace -f -y`."""
    total, waiting = 0, {}
    with open(trace, errors="replace") as lines:
        for line in lines:
            process = line.split(None, 1)[0]
            begun = re.search(r"\(\d+<(.*?)>", line)
            path = begun[1] if begun else waiting.pop(process, "")
            ended = re.search(r"= (\d+)$", line)
            if ended is None:
                waiting[process] = path
            elif path.startswith(f"{directory}/"):
                total += int(ended[1])
    return total
