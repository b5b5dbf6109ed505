"""A bucket on a real S3 server behind a line with latency."""

import os
import re
import subprocess
import sys
import time

from .measure import Failed

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../.."))


class Bucket:
    """Starts the server when created; `address` is for https, `plain_address` for http."""

    name = "bench"

    def __init__(self, place, latency_ms):
        self.place = f"{place}/s3"
        printed = subprocess.run(
            [f"{ROOT}/scripts/s3-server", "start", self.place], stdout=subprocess.PIPE, text=True, check=False
        )
        if printed.returncode != 0:
            raise Failed("the S3 server did not start")
        variables = dict(re.findall(r"^export PGARK_TEST_S3_(\w+)=(.*)$", printed.stdout, re.MULTILINE))
        self.key, self.secret = variables["ACCESS_KEY"], variables["SECRET_KEY"]
        self.authority = f"{variables['TLS_DIRECTORY']}/ca.pem"
        ports = [int(variables[name].rsplit(":", 1)[1]) for name in ("TLS_ENDPOINT", "ENDPOINT")]
        ours = [port + 50 for port in ports]
        self.address, self.plain_address = (f"localhost:{port}" for port in ours)
        self.proxy = subprocess.Popen(
            [sys.executable, f"{ROOT}/scripts/bench/lib/proxy.py", str(latency_ms)]
            + [f"{port}={target}" for port, target in zip(ours, ports)]
        )
        time.sleep(0.5)
        made = subprocess.run([f"{ROOT}/scripts/s3-server", "bucket", self.place, self.name], check=False)
        if made.returncode != 0:
            raise Failed("the bucket could not be made")

    def close(self):
        self.proxy.terminate()
        self.proxy.wait()
        subprocess.run([f"{ROOT}/scripts/s3-server", "stop", self.place], check=False)
