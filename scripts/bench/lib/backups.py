"""Backups of a running server, and restores of them."""

from .contestants import chosen
from .dataset import Server, owned
from .measure import Cost, Tree, forget_cached, stored_bytes


class Backups:
    """A running server, and contestants that can back it up."""

    def __init__(self, bench, cluster, compression, names):
        self.bench, self.cluster, self.compression = bench, cluster, compression
        self.socket = owned(f"{bench.place}/socket")
        self.tree = Tree("server")
        self.server = Server(cluster, self.socket, self.tree)
        self.kinds = chosen(*names)

    def begin(self, kind, place=None):
        return self.bench.begin(kind, self.cluster, self.socket, self.compression, place=place)

    def begin_all(self):
        """All contestants, each with one full backup."""
        contestants = [self.begin(kind) for kind in self.kinds]
        for it in contestants:
            self.measure(it)
        return contestants

    def measure_fresh(self, kind, report, figure):
        """Takes one full backup into a new repository on the new file system."""
        it = self.begin(kind, self.bench.fresh)
        self.measure(it, report, figure)
        self.bench.end(it)

    def measure(self, it, report=None, figure="", command=None):
        """Takes a backup, a full one unless there is a command; returns its cost, including the server's."""
        environment = " ".join(f"{name}={value}" for name, value in it.environment.items())
        # The previous contestant may have been removed, and the server waits until its WAL is archived.
        push = f"{environment} {it.push}" if hasattr(it, "push") else "/bin/true"
        # Switches the segment, because without load there would be no WAL to wait for.
        self.server.sql(f"ALTER SYSTEM SET archive_command = '{push}'", "SELECT pg_reload_conf()")
        self.server.sql("CHECKPOINT", "SELECT pg_switch_wal()")
        before = stored_bytes(it.repository)
        with Cost(it.tree, self.tree) as cost:
            cost.wall_s = it.shell.must(command or it.backup())
        stored = stored_bytes(it.repository)
        if report:
            report.add_cost(figure, it.name, cost, stored_bytes=stored - before if stored > before else stored)

    def stop_server(self, mode="immediate"):
        self.server.sql("ALTER SYSTEM RESET archive_command", "SELECT pg_reload_conf()")
        self.server.stop(mode)
        self.tree.close()

    def restore(self, it, report, figure):
        """Restores durably onto the new file system; returns the cost."""
        forget_cached(it.repository)
        target = owned(f"{self.bench.fresh}/restored", 0o700)
        with Cost(it.tree) as cost:
            cost.wall_s = it.shell.must(it.restore(target))
        report.add_cost(figure, it.name, cost)
