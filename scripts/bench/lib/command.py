"""Shared by the commands of this folder: options, a working directory, rounds, the final report."""

import argparse
import os
import shutil
import signal
import sys
import tempfile

from .dataset import directory, owned
from .disk import Disk, touch_memory
from .measure import OWNER, Failed
from .report import Report


# Sufficient for the repository of a turn and the data restored from it.
DISK_BYTES = 8 << 30


class Bench:
    """A command: parses the options when created; `turns()` yields the turns."""

    def __init__(self, description, rounds=4, options=()):
        parser = argparse.ArgumentParser(
            description=description,
            epilog="PGARK_BENCH_DIRECTORY: the working directory (/var/tmp/pgark-bench). "
            "PGARK_BENCH_ONLY: the names of the contestants to run. docs/performance.md explains the table.",
        )
        parser.add_argument(
            "--rounds",
            type=int,
            default=rounds,
            help="the number of measured turns of each contestant; one more runs first and is discarded [%(default)s]",
        )
        parser.add_argument("--json", default=f"{directory()}/results", metavar="DIRECTORY", help="the directory of the JSON file [%(default)s]")
        for option, settings in options:
            parser.add_argument(option, **settings)
        self.options = parser.parse_args()
        self.open = []

    def run(self, title, measure):
        """Calls `measure(bench, report)`, prints the report, and cleans up."""
        if os.geteuid() != 0:
            sys.exit("run this as root: it measures control groups and runs servers as another user")
        os.chdir("/")  # a directory that the owner may enter
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.report = Report(title)
        self.place = tempfile.mkdtemp(prefix="work-", dir=owned(directory()))
        os.chmod(self.place, 0o755)
        shutil.chown(self.place, OWNER, OWNER)
        self.disk = None
        try:
            measure(self, self.report)
            self.report.print()
            print(f"\n{self.report.write(self.options.json)}")
        except Failed as failed:
            sys.exit(f"{sys.argv[0]}: {failed}")
        finally:
            for contestant in list(self.open):
                self.end(contestant)
            if self.disk:
                self.disk.close()
            shutil.rmtree(self.place, ignore_errors=True)

    def turns(self, kinds):
        """Yields every contestant in every round, each on a new file system: see `rounds`."""
        for turn in self.rounds(kinds):
            self.renew()
            yield turn

    def rounds(self, kinds):
        """Yields every contestant in every round.

        The first contestant changes from round to round. The results of the first round are discarded.
        """
        for number in range(self.options.rounds + 1):
            self.report.discarding = number == 0
            first = number % len(kinds)
            order = kinds[first:] + kinds[:first]
            # Reverses the order in every second round, so that no contestant always follows the same other one.
            for kind in order[:: 1 if number % 2 else -1]:
                yield number, kind
        self.report.discarding = False

    def renew(self):
        """Creates an empty file system for a turn, with the directory `fresh`."""
        self.disk = self.disk or Disk(f"{self.place}/disk.image", f"{self.place}/disk", DISK_BYTES)
        self.disk.renew()
        self.fresh = owned(f"{self.disk.path}/turn")
        touch_memory()

    def begin(self, kind, *arguments, place=None, **options):
        """Creates a contestant in a directory of its own, below `place` if given."""
        contestant = kind(f"{place or self.place}/{kind.name}", *arguments, **options)
        self.open.append(contestant)
        contestant.start()
        return contestant

    def end(self, contestant):
        """Closes a contestant and removes its directory."""
        self.open.remove(contestant)
        contestant.close()
        shutil.rmtree(contestant.place, ignore_errors=True)
