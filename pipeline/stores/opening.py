"""The store of a run folder, by its name."""

from pathlib import Path

from pipeline.errors import StoreError
from pipeline.stores.bucket_store import open_bucket_store
from pipeline.stores.local_store import LocalStore
from pipeline.stores.run_store import BUCKET_SCHEMES, RunStore


def open_store(root: str | Path) -> RunStore:
    """The store of a run folder: a local path, or `s3://bucket/prefix`, `gs://…`, `az://…`.

    Keys and endpoint of a bucket come from the environment (AWS_*, GOOGLE_*, AZURE_*), and it is asked once whether
    it answers. Raises StoreError if it does not, or refuses.
    """
    scheme, separator, rest = str(root).partition("://")
    if separator and scheme.lower() in BUCKET_SCHEMES:
        return open_bucket_store(scheme.lower(), rest.strip("/"))
    if separator:
        known = ", ".join(f"{name}://" for name in BUCKET_SCHEMES)
        raise StoreError(f"{root}: a run on {scheme}:// is not supported; give a local folder or one of {known}")
    return LocalStore(root)
