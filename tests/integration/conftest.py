"""Servers that integration tests use."""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import botocore.session
import pytest


@dataclass(frozen=True)
class S3:
    """A bucket of its own on a real S3 server, whose address and keys are in the environment."""

    bucket: str
    endpoint: str

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A new bucket at AWS_ENDPOINT_URL. Skipped where the environment names no server."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        pytest.skip("AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of an S3 server are not set")
    bucket = f"sources-{uuid.uuid4().hex[:8]}"
    client = botocore.session.get_session().create_client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    yield S3(bucket, endpoint)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            client.delete_object(Bucket=bucket, Key=entry["Key"])
    client.delete_bucket(Bucket=bucket)
    client.close()
