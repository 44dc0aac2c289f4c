"""A real S3 server for tests: Ceph's gateway, started by the project's own script."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs

SCRIPT = Path(__file__).parents[1] / "infra/services/ceph.sh"
_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "ceph")


@dataclass(frozen=True)
class S3Server:
    """environment: what a client needs, AWS_* by name."""

    environment: dict[str, str]

    @property
    def endpoint(self) -> str:
        return self.environment["AWS_ENDPOINT_URL"]

    def files(self) -> s3fs.S3FileSystem:
        """The server as a file system, by a library that the pipeline does not use for runs."""
        return s3fs.S3FileSystem(
            key=self.environment["AWS_ACCESS_KEY_ID"],
            secret=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.endpoint,
            skip_instance_cache=True,
        )

    def new_bucket(self) -> str:
        """The name of a bucket of its own."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.files().mkdir(name)
        return name


def serve(folder: Path, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """A server at this address of the machine while the generator is open; skips the test where it cannot be had, which
    is a failure in CI."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        message = f"needs {', '.join(missing)}: `make services` as root installs a Ceph gateway for tests"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    given = {**os.environ, "CEPH_ADDRESS": address}
    run = subprocess.run([SCRIPT, "start", folder], env=given, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.fail(f"{SCRIPT} start: exit {run.returncode}\n{run.stderr}")
    try:
        yield S3Server(dict(line.split("=", 1) for line in run.stdout.splitlines()))
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)
