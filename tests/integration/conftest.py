"""A bucket on a real S3 server, for images and manifests."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from s3server import S3Server


@dataclass(frozen=True)
class S3:
    """A bucket of its own, whose server's address and keys are in the environment."""

    bucket: str
    endpoint: str

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


@pytest.fixture(scope="module")
def s3(s3_server: S3Server) -> Iterator[S3]:
    """A new bucket for the tests of a module, with address and keys of its server in the environment."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_server.environment.items():
            environment.setenv(name, value)
        yield S3(s3_server.new_bucket(), s3_server.endpoint)
