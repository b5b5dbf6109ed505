"""The measured programs: how each is configured, called and stopped. All use two workers and the same compression."""

import os
import shutil
import subprocess
import time

from .dataset import owned
from .measure import Failed, Shell, Tree, run

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../.."))


class Contestant:
    """A program for one cluster, with a repository, a directory and a process tree of its own."""

    name = ""
    environment = {}

    def __init__(self, place, data, socket, compression="lz4", bucket=None):
        self.place, self.data, self.socket = owned(place), data, socket
        self.compression, self.bucket = compression, bucket
        self.repository = owned(f"{place}/repository", 0o750)
        self.tree = Tree(self.name)
        self.configure()
        self.shell = Shell(self.tree, data, self.log(), self.environment)

    def log(self):
        path = f"{self.place}/output"
        with open(path, "a"):
            shutil.chown(path, "postgres")
        return path

    def configure(self):
        pass

    def start(self):
        """Prepares the first call."""

    def stop_agent(self):
        """Stops processes that would exit during a pause."""

    def close(self):
        self.shell.close()
        self.tree.close()

    def write(self, name, text):
        path = f"{self.place}/{name}"
        with open(path, "w") as file:
            file.write(text)
        shutil.chown(path, "postgres", "postgres")
        os.chmod(path, 0o600)
        return path


class Pgark(Contestant):
    name = "pgark"
    built = {"pgark": "target/release", "archive-push": "target-small/built", "archive-get": "target-small/built"}
    settings = ""

    def configure(self):
        self.bin = owned(f"{self.place}/bin")
        owned(f"{self.place}/spool")
        for program, directory in self.built.items():
            built = os.path.join(ROOT, directory, program)
            if not os.path.exists(built):
                raise Failed(f"{built} is missing: run scripts/bench/setup")
            shutil.copy(built, self.bin)
        repository = f'repository.url = "{self.repository}"\n'
        if self.bucket:
            keys = f"[default]\naws_access_key_id = {self.bucket.key}\naws_secret_access_key = {self.bucket.secret}\n"
            repository = (
                f'repository.url = "s3://{self.bucket.name}/pgark"\ns3.endpoint = "https://{self.bucket.address}"\n'
                f's3.ca_file = "{self.bucket.authority}"\ns3.credentials_file = "{self.write("keys", keys)}"\n'
            )
        method = "zstd" if self.compression.startswith("zstd") else self.compression
        level = f"compression.level = {self.compression[4:]}\n" if method == "zstd" else ""
        self.config = self.write(
            "pgark.toml",
            f'cluster = "bench"\ndata_directory = "{self.data}"\n{repository}'
            f'spool.directory = "{self.place}/spool/bench"\nbackup.checkpoint = "fast"\n'
            f'connection.conninfo = "host={self.socket} user=postgres"\n'
            f'compression.method = "{method}"\n{level}{self.settings}',
        )
        self.push = f"{self.bin}/archive-push --config {self.config} %p"
        self.get = f"{self.bin}/archive-get --config {self.config} %f %p"
        self.pgark = f"{self.bin}/pgark --config {self.config} --quiet"
        self.backups = 0

    def stop_agent(self):
        self.shell.must(f"{self.pgark} agent stop")

    def backup(self):
        self.backups += 1
        return f"{self.pgark} base-backup --label backup{self.backups}"

    def incremental(self, kind):
        return f"{self.backup()} --type {'incremental' if kind == 'incr' else 'differential'}"

    def restore(self, target, delta=False):
        over = "--delta " if delta else ""
        return f"{self.pgark} recover {over}--target-immediate --backup backup{self.backups} --target-directory {target}"


class PgarkBefore(Pgark):
    """The three programs of another version, in one directory."""

    name = "pgark-before"
    program = os.environ.get("PGARK_BENCH_PGARK_BEFORE")
    built = dict.fromkeys(Pgark.built, program or "")


class PgBackRest(Contestant):
    name = "pgbackrest"
    program = os.environ.get("PGARK_BENCH_PGBACKREST") or shutil.which("pgbackrest")
    settings = ""
    asynchronous = True

    def configure(self):
        repository = f"repo1-path={self.repository}\n"
        if self.bucket:
            host, port = self.bucket.address.split(":")
            repository = (
                f"repo1-type=s3\nrepo1-path=/pgbackrest\nrepo1-s3-bucket={self.bucket.name}\n"
                f"repo1-s3-endpoint={host}\nrepo1-storage-port={port}\nrepo1-s3-region=us-east-1\n"
                f"repo1-s3-uri-style=path\nrepo1-s3-key={self.bucket.key}\nrepo1-s3-key-secret={self.bucket.secret}\n"
                f"repo1-storage-ca-file={self.bucket.authority}\n"
            )
        method, level = (self.compression[:3] + "st", self.compression[4:]) if "zstd" in self.compression else (self.compression, "1")
        method = "zst" if "zstd" in self.compression else method
        for directory in ("spool", "lock", "log"):
            owned(f"{self.place}/{directory}", 0o750)
        config = self.write(
            "pgbackrest.conf",
            f"[global]\n{repository}spool-path={self.place}/spool\nlock-path={self.place}/lock\n"
            f"log-path={self.place}/log\nlog-level-file=off\nlog-level-console=warn\nprocess-max=2\n"
            f"compress-type={method}\ncompress-level={level}\nstart-fast=y\n"
            f"archive-async={'y' if self.asynchronous else 'n'}\n{self.settings}"
            f"[bench]\npg1-path={self.data}\npg1-socket-path={self.socket}\n",
        )
        self.base = f"{self.program} --config={config} --stanza=bench"
        self.push = f"{self.base} archive-push %p"
        self.get = f"{self.base} archive-get %f %p"

    def start(self):
        self.shell.must(f"{self.base} --no-online stanza-create")

    def backup(self):
        return f"{self.base} --type=full backup"

    def incremental(self, kind):
        return f"{self.base} --type={kind} backup"

    def restore(self, target, delta=False):
        over = "--delta " if delta else ""
        return f"{self.base} {over}--pg1-path={target} --type=immediate restore"


class PgBackRestSynchronous(PgBackRest):
    name = "pgbackrest-sync"
    asynchronous = False


class PgBackRestBundles(PgBackRest):
    name = "pgbackrest-bundle"
    settings = "repo1-bundle=y\n"


class PgBackRestBlocks(PgBackRest):
    name = "pgbackrest-block"
    # In Debian's version 2.45, block incremental backups are a beta feature.
    settings = "repo1-bundle=y\nrepo1-block=y\nbeta=y\n"


class WalRus(Contestant):
    name = "wal-rus"
    program = os.environ.get("PGARK_BENCH_WAL_RUS")
    daemon = None

    def configure(self):
        method = "zstd" if self.compression.startswith("zstd") else self.compression
        self.environment = {
            "WALG_COMPRESSION_METHOD": method,
            "WALG_UPLOAD_CONCURRENCY": "2",
            "WALG_DOWNLOAD_CONCURRENCY": "2",
            "PGDATA": self.data,
            "PGHOST": self.socket,
            "PGUSER": "postgres",
        }
        if self.bucket:
            self.environment |= {
                "WALG_S3_PREFIX": f"s3://{self.bucket.name}/walrus",
                "AWS_ENDPOINT": f"http://{self.bucket.plain_address}",
                "AWS_S3_FORCE_PATH_STYLE": "true",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": self.bucket.key,
                "AWS_SECRET_ACCESS_KEY": self.bucket.secret,
            }
        else:
            self.environment["WALG_FILE_PREFIX"] = self.repository
        self.address = f"{self.place}/socket"
        client = f"{self.program} daemon-client --socket {self.address}"
        self.push = f"{client} wal-push {self.data}/%p"
        self.get = f"{client} wal-fetch %f {self.data}/%p"

    def start(self):
        self.daemon = self.tree.popen(
            [self.program, "daemon", "--socket", self.address],
            env={**os.environ, **self.environment},
            stdout=open(self.log(), "a"),
            stderr=subprocess.STDOUT,
        )
        ends = time.monotonic() + 10
        while not os.path.exists(self.address):
            if time.monotonic() > ends:
                raise Failed(f"wal-rus does not listen: {self.log()}")
            time.sleep(0.02)

    def backup(self):
        return f"{self.program} backup-push {self.data}"

    def restore(self, target):
        # It does not make the restored files durable.
        return f"{self.program} backup-fetch {target} LATEST && sync -f {target}"


class Copy(Contestant):
    """`cp` with an fsync: the manual's example, with the minimum that is safe."""

    name = "cp"

    def configure(self):
        self.push = f"cp %p {self.repository}/%f && sync {self.repository}/%f {self.repository}"
        self.get = f"cp {self.repository}/%f %p"


class PgBaseBackup(Contestant):
    """PostgreSQL's own, compressed by the server; unpacked by `tar` and made durable by `sync`."""

    name = "pg_basebackup"

    def backup(self):
        run(["rm", "-rf", f"{self.repository}/backup"])
        method = {"lz4": "server-lz4:1"}.get(self.compression) or f"server-zstd:{self.compression[4:]}"
        return (
            f"pg_basebackup -h {self.socket} -U postgres -c fast -X none -Ft --compress={method} "
            f"-D {self.repository}/backup"
        )

    def restore(self, target):
        program = "lz4" if self.compression == "lz4" else "zstd"
        suffix = "lz4" if self.compression == "lz4" else "zst"
        return f"{program} -dc {self.repository}/backup/base.tar.{suffix} | tar -x -C {target} && sync -f {target}"


ALL = [Pgark, PgarkBefore, PgBackRest, PgBackRestSynchronous, PgBackRestBundles, PgBackRestBlocks, WalRus, Copy, PgBaseBackup]


def chosen(*names):
    """The contestants in `names` that are installed, limited to $PGARK_BENCH_ONLY if it is set."""
    only = os.environ.get("PGARK_BENCH_ONLY", " ".join(names)).split()
    found = [kind for kind in ALL if kind.name in names and kind.name in only]
    return [kind for kind in found if getattr(kind, "program", "given")]
