"""Backups of a running server, and restores of them."""

import shutil

from .contestants import chosen
from .dataset import Server, owned
from .measure import Cost, Failed, Tree, forget_cached, stored_bytes


class Backups:
    """A server that runs, and contestants that can back it up."""

    def __init__(self, bench, cluster, compression, names):
        self.bench = bench
        self.socket = owned(f"{bench.place}/socket")
        self.tree = Tree("server")
        self.server = Server(cluster, self.socket, self.tree)
        try:
            self.contestants = [bench.begin(kind, cluster, self.socket, compression) for kind in chosen(*names)]
        except Failed:
            self.stop_server()
            raise

    def measure(self, it, report=None, figure="", command=None):
        """One backup, a full one unless there is a command; its cost with what it costs the server."""
        if hasattr(it, "push"):
            environment = " ".join(f"{name}={value}" for name, value in it.environment.items())
            # The load of the data has ended: without a switch there would be no WAL to wait for.
            self.server.sql(f"ALTER SYSTEM SET archive_command = '{environment} {it.push}'", "SELECT pg_reload_conf()")
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
        """One restore, durable; its cost."""
        forget_cached(it.repository)
        target = owned(f"{self.bench.place}/restored", 0o700)
        with Cost(it.tree) as cost:
            cost.wall_s = it.shell.must(it.restore(target))
        report.add_cost(figure, it.name, cost)
        shutil.rmtree(target)
