"""Stores to keep a sweep in: a folder behind a file: URI, and an S3 server of our own."""

import contextlib
import itertools
import os

import pytest

_BUCKETS = itertools.count()


@contextlib.contextmanager
def s3_server():
    """An S3 server on 127.0.0.1, in memory; yields the end of a URI that leads there. Passwords are in os.environ."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        try:
            yield f"scheme=http&endpoint_override=127.0.0.1:{server.get_host_and_port()[1]}&region=us-east-1"
        finally:
            server.stop()


def new_bucket(ending):
    """The URI of a folder in a bucket of its own, on the server that `ending` leads to."""
    from pyarrow.fs import FileSystem

    bucket = f"bucket-{os.getpid()}-{next(_BUCKETS)}"
    filesystem, _ = FileSystem.from_uri(f"s3://{bucket}?{ending}&allow_bucket_creation=true")
    filesystem.create_dir(bucket)
    return f"s3://{bucket}/lethe?{ending}"
