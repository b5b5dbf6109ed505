"""The data for the measurements, created once and kept in $PGARK_BENCH_DIRECTORY (/var/tmp/pgark-bench).

    start/    a cluster as pgbench fills it, stopped
    wal/      the WAL segments that a load of pgbench wrote after that: mostly page images, some of it incompressible
    cluster/  the cluster after that load, stopped: a quarter of its tables is incompressible
    small/    a cluster of 20,000 small tables, stopped
    accounts-…/  a cluster as pgbench fills it, of the version and scale in its name, stopped
"""

import os
import re
import shutil
import subprocess
import time

from .measure import OWNER, Failed, run

SEGMENT_BYTES = 16 << 20
SCRIPTS = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))

SETTINGS = """
listen_addresses = ''
port = 5432
shared_buffers = '256MB'
max_wal_size = '1GB'
checkpoint_timeout = '30s'
synchronous_commit = off
wal_compression = off
max_locks_per_transaction = 4096
"""

NOISE = """CREATE TABLE noise (id bigserial PRIMARY KEY, bytes bytea NOT NULL);
ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL;
CREATE FUNCTION noise(kib int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO noise (bytes) SELECT string_agg(sha256((random()::text || g)::bytea), '') FROM generate_series(1, kib * 32) g
$$;"""


def directory():
    return os.environ.get("PGARK_BENCH_DIRECTORY", "/var/tmp/pgark-bench")


def programs():
    """The directory of PostgreSQL's programs, found in the same way as by the other scripts."""
    found = subprocess.run(
        ["bash", "-c", "source lib.sh; postgres_bin"], cwd=SCRIPTS, stdout=subprocess.PIPE, text=True, check=False
    )
    if found.returncode != 0:
        raise Failed("PostgreSQL was not found: scripts/bench/setup installs it")
    return found.stdout.strip()


class Server:
    """A running server of the owner, in the process tree in which its cost counts."""

    programs = staticmethod(lambda: programs())

    def __init__(self, data, socket, tree=None, options=""):
        self.bin, self.data, self.socket = programs(), data, socket
        start = [
            f"{self.bin}/pg_ctl", "-D", data, "-l", f"{socket}/server.log", "-w", "-t", "120",
            "-o", f"-c unix_socket_directories={socket} {options}", "start",
        ]
        if tree is None:
            run(start)
        elif tree.popen(start, stdout=subprocess.DEVNULL).wait() != 0:
            raise Failed(f"the server did not start: {socket}/server.log")

    def sql(self, *statements):
        commands = [part for statement in statements for part in ("-c", statement)]
        return run([f"{self.bin}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.socket, "-U", "postgres", *commands])

    def wait_archived(self):
        """Ends the segment, and waits until the server has archived it."""
        last = self.sql("SELECT pg_walfile_name(pg_switch_wal())").splitlines()[-1]
        ends = time.monotonic() + 300
        while self.sql(f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver") != "t":
            if time.monotonic() > ends:
                raise Failed(f"{last} was not archived: {self.socket}/server.log")
            time.sleep(0.1)

    def stop(self, mode="fast"):
        run([f"{self.bin}/pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "300", "stop"])


def owned(path, mode=0o755):
    os.makedirs(path, exist_ok=True)
    os.chmod(path, mode)
    shutil.chown(path, OWNER, OWNER)
    return path


def make(part, build):
    """The path of a part of the data; builds it if it does not exist."""
    path = f"{directory()}/{part}"
    if not os.path.exists(path):
        print(f"== making {path}", flush=True)
        owned(directory())
        began, work = time.monotonic(), owned(f"{path}.new")
        build(work)
        os.rename(work, path)
        print(f"   done in {time.monotonic() - began:.0f} s", flush=True)
    return path


def initialize(data):
    run([f"{programs()}/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--data-checksums", "-N"])
    with open(f"{data}/postgresql.conf", "a") as settings:
        settings.write(SETTINGS)


def wal_and_clusters(segments=130, scale=100):
    """Paths of `start`, `wal` and `cluster`, created together: the WAL leads from one cluster to the other."""

    def build(work):
        socket = owned(f"{work}/socket")
        owned(f"{work}/wal")
        data = f"{work}/start"
        initialize(data)
        server = Server(data, socket, options="-c fsync=off")
        server.sql(*NOISE.split("\n\n"), "SELECT noise(4096) FROM generate_series(1, 40)")
        bench = [f"{server.bin}/pgbench", "-h", socket, "-U", "postgres"]
        run([*bench, "-i", "-q", "-s", str(scale)])
        server.sql("CHECKPOINT", "SELECT pg_switch_wal()", "CHECKPOINT")
        server.stop()
        run(["cp", "-a", data, f"{work}/cluster"])
        data = f"{work}/cluster"
        server = Server(data, socket, options=f"-c fsync=off -c archive_mode=on -c 'archive_command=cp %p {work}/wal/%f'")
        with open(f"{work}/noise.sql", "w") as script:
            script.write("SELECT noise(64);\n")
        while len(os.listdir(f"{work}/wal")) < segments:
            run([*bench, "-c", "4", "-j", "2", "-T", "10", "-n", "-b", "tpcb-like@40", "-f", f"{work}/noise.sql@1"])
        server.sql("CHECKPOINT")
        server.stop()
        for data in (f"{work}/start", f"{work}/cluster"):
            with open(f"{data}/postgresql.conf", "a") as settings:
                settings.write("archive_mode = on\narchive_timeout = 0\narchive_command = 'false'\n")

    path = make("pgbench", build)
    return f"{path}/start", f"{path}/wal", f"{path}/cluster"


def small_files(tables=20_000):
    """The path of a cluster with this number of small tables."""

    def build(work):
        socket, data = owned(f"{work}/socket"), f"{work}/cluster"
        initialize(data)
        server = Server(data, socket, options="-c fsync=off -c autovacuum=off")
        server.sql(
            f"DO $$ BEGIN FOR i IN 1..{tables} LOOP EXECUTE format('CREATE TABLE t%s AS SELECT %s AS i', i, i); "
            "IF i % 1000 = 0 THEN COMMIT; END IF; END LOOP; END $$",
            "CHECKPOINT",
        )
        server.stop()
        with open(f"{data}/postgresql.conf", "a") as settings:
            settings.write("archive_mode = on\narchive_timeout = 0\narchive_command = 'false'\n")

    return f"{make('small', build)}/cluster"


def major():
    """The major version of PostgreSQL's programs."""
    return int(re.search(r"\d+", run([f"{programs()}/postgres", "--version"]))[0])


def accounts(scale):
    """The path of a cluster with pgbench's tables and nothing else."""

    def build(work):
        socket, data = owned(f"{work}/socket"), f"{work}/cluster"
        initialize(data)
        server = Server(data, socket, options="-c fsync=off")
        run([f"{server.bin}/pgbench", "-h", socket, "-U", "postgres", "-i", "-q", "-s", str(scale)])
        server.sql("CHECKPOINT")
        server.stop()
        with open(f"{data}/postgresql.conf", "a") as settings:
            settings.write("autovacuum = off\narchive_mode = on\narchive_timeout = 0\narchive_command = 'false'\n")

    return f"{make(f'accounts-{major()}-{scale}', build)}/cluster"


def segments(wal, count=None):
    """The names of the segments, in order."""
    names = sorted(name for name in os.listdir(wal) if len(name) == 24)
    if count is not None and len(names) < count:
        raise Failed(f"{wal} holds {len(names)} segments only")
    return names[:count]


class ArchivingServer:
    """Looks like a server to archiving: a data directory with WAL and its status files. No server runs."""

    def __init__(self, path, start, wal, names):
        self.path, self.names = owned(path, 0o700), names
        owned(f"{path}/global", 0o700)
        self.pg_wal = owned(f"{path}/pg_wal", 0o700)
        self.status = owned(f"{path}/pg_wal/archive_status", 0o700)
        run(["cp", "-a", f"{start}/global/pg_control", f"{path}/global/"])
        run(["cp", "-a", f"{start}/PG_VERSION", f"{path}/"])
        for name in names:
            run(["cp", f"{wal}/{name}", self.pg_wal])

    def mark_ready(self, names):
        for name in names:
            open(f"{self.status}/{name}.ready", "w").close()

    def archive(self, shell, command, name):
        """Archives one file like the server's archiver; returns the run time of the command."""
        seconds = shell.must(command.replace("%p", f"pg_wal/{name}").replace("%f", name))
        # wal-rus renames the status file itself.
        if os.path.exists(f"{self.status}/{name}.ready"):
            os.rename(f"{self.status}/{name}.ready", f"{self.status}/{name}.done")
        return seconds

    def forget_marks(self):
        for name in os.listdir(self.status):
            os.unlink(f"{self.status}/{name}")
