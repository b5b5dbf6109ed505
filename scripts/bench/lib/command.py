"""What the commands of this folder have in common: options, a place to work in, rounds, the report at the end."""

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
    """One command: made from its description, it reads the options; `turns()` gives the turns."""

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
        """Calls `measure(bench, report)`, prints what it reported, and leaves nothing behind."""
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
        """Every contestant in every round, in turn, each on a fresh file system: see `rounds`."""
        for turn in self.rounds(kinds):
            self.renew()
            yield turn

    def rounds(self, kinds):
        """Every contestant in every round, in turn.

        The one that begins changes from round to round. The first round is discarded.
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
        """Makes the file system of a turn, empty, and its directory `fresh`."""
        self.disk = self.disk or Disk(f"{self.place}/disk.image", f"{self.place}/disk", DISK_BYTES)
        self.disk.renew()
        self.fresh = owned(f"{self.disk.path}/turn")
        touch_memory()

    def begin(self, kind, *arguments, place=None, **options):
        """A contestant in a place of its own, below `place` if it is given."""
        contestant = kind(f"{place or self.place}/{kind.name}", *arguments, **options)
        self.open.append(contestant)
        contestant.start()
        return contestant

    def end(self, contestant):
        """Ends it and removes its place."""
        self.open.remove(contestant)
        contestant.close()
        shutil.rmtree(contestant.place, ignore_errors=True)
