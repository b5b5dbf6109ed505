"""What the commands of this folder have in common: options, a place to work in, rounds, the report at the end."""

import argparse
import os
import shutil
import signal
import sys
import tempfile

from .dataset import directory, owned
from .measure import OWNER, Failed
from .report import Report


class Bench:
    """One command: made from its description, it reads the options; `rounds()` gives the turns."""

    def __init__(self, description, rounds=3, options=()):
        parser = argparse.ArgumentParser(
            description=description,
            epilog="PGARK_BENCH_DIRECTORY: where the data is kept and worked on (/var/tmp/pgark-bench). "
            "PGARK_BENCH_ONLY: the contestants, by name. docs/performance.md says how to read the table.",
        )
        parser.add_argument("--rounds", type=int, default=rounds, help="how often each contestant has its turn [%(default)s]")
        parser.add_argument("--json", default=f"{directory()}/results", metavar="DIRECTORY", help="where the JSON file goes [%(default)s]")
        for option, settings in options:
            parser.add_argument(option, **settings)
        self.options = parser.parse_args()
        self.open = []

    def run(self, title, measure):
        """Calls `measure(bench, report)`, prints what it reported, and leaves nothing behind."""
        if os.geteuid() != 0:
            sys.exit("this measures control groups and runs servers as another user: run it as root")
        os.chdir("/")  # which the owner may enter
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        report = Report(title)
        self.place = tempfile.mkdtemp(prefix="work-", dir=owned(directory()))
        os.chmod(self.place, 0o755)
        shutil.chown(self.place, OWNER, OWNER)
        try:
            measure(self, report)
            report.print()
            print(f"\n{report.write(self.options.json)}")
        except Failed as failed:
            sys.exit(f"{sys.argv[0]}: {failed}")
        finally:
            for contestant in list(self.open):
                self.end(contestant)
            shutil.rmtree(self.place, ignore_errors=True)

    def turns(self, kinds):
        """Every contestant in every round, in turn; its order changes from round to round."""
        for number in range(self.options.rounds):
            for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                yield number, kind

    def begin(self, kind, *arguments, **options):
        """A contestant in a fresh place."""
        contestant = kind(f"{self.place}/{kind.name}", *arguments, **options)
        self.open.append(contestant)
        contestant.start()
        return contestant

    def end(self, contestant):
        """Ends it and removes its place."""
        self.open.remove(contestant)
        contestant.close()
        shutil.rmtree(contestant.place, ignore_errors=True)
