"""Turns the numbers of several rounds into a table and a JSON file."""

import json
import os
import platform
import statistics
import subprocess
import time

# name, heading, divisor
COLUMNS = [
    ("wall_s", "wall s", 1),
    ("cpu_s", "CPU s", 1),
    ("peak_bytes", "peak MB", 1e6),
    ("read_bytes", "read MB", 1e6),
    ("stored_bytes", "stored MB", 1e6),
    ("p50_ms", "p50 ms", 1),
    ("p99_ms", "p99 ms", 1),
    ("kept_share", "kept share", 1),
    ("left_bytes", "left MB", 1e6),
    ("stored_cached_bytes", "of stored MB", 1e6),
]


class Report:
    """The results under one title: rows of `figure` and `contestant`, with one value of each kind per round."""

    def __init__(self, title):
        self.title = title
        self.rows = {}
        # Whether to show the values of the current round without recording them.
        self.discarding = False

    def add(self, figure, contestant, **values):
        if not self.discarding:
            row = self.rows.setdefault(figure, {}).setdefault(contestant, {})
            for name, value in values.items():
                row.setdefault(name, []).append(value)
        shown = "  ".join(f"{name}={value:.4g}" for name, value in values.items())
        print(f"   {figure}: {contestant}: {shown}{'  (discarded)' if self.discarding else ''}", flush=True)

    def add_cost(self, figure, contestant, cost, **more):
        self.add(figure, contestant, wall_s=cost.wall_s, cpu_s=cost.cpu_s, peak_bytes=cost.peak_bytes, **more)

    def print(self):
        print(f"\n== {self.title}\n   median (least to most); ratio is pgark / this one", flush=True)
        for figure, contestants in self.rows.items():
            names = [name for name, *_ in COLUMNS if any(name in row for row in contestants.values())]
            print(f"\n{figure}")
            heads = [head for name, head, _ in COLUMNS if name in names]
            print(f"  {'':22}" + "".join(f"{head:>24} {'ratio':>6}" for head in heads))
            for contestant, row in contestants.items():
                cells = (self.cell(contestants, row, name) for name in names)
                print(f"  {contestant:22}" + "".join(cells))

    @staticmethod
    def cell(contestants, row, name):
        if name not in row:
            return f"{'-':>24} {'':6}"
        divisor = next(divisor for known, _, divisor in COLUMNS if known == name)
        values = [value / divisor for value in row[name]]
        median = statistics.median(values)
        text = f"{number(median)} ({number(min(values))} to {number(max(values))})"
        ours = contestants.get("pgark", {}).get(name)
        ratio = statistics.median(ours) / divisor / median if ours and median else None
        return f"{text:>24} " + (f"{ratio:6.2f}" if ratio is not None else " " * 6)

    def write(self, directory):
        """Writes a JSON file into the directory; returns its path."""
        os.makedirs(directory, exist_ok=True)
        path = f"{directory}/{self.title.split(':')[0].replace(' ', '-')}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        with open(path, "w") as file:
            json.dump({"title": self.title, "machine": machine(), "figures": self.rows}, file, indent=1)
        return path


def number(value):
    """Three significant digits."""
    for limit, form in ((100, "{:.0f}"), (10, "{:.1f}"), (0.095, "{:.2f}")):
        if abs(value) >= limit:
            return form.format(value)
    return f"{value:.4f}"


def percentiles(seconds):
    """Two columns, in milliseconds."""
    ordered = sorted(seconds)
    at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000
    return {"p50_ms": at(0.5), "p99_ms": at(0.99)}


def machine():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")
    with open("/proc/loadavg") as file:
        load = file.read().split()[0]
    git = ["git", "-C", os.path.dirname(os.path.realpath(__file__)), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "load": load, "pgark": commit}
