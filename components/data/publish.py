"""The data set folder in the object store, where the next retrain finds the rows to replay."""

from pathlib import Path

from components.data.data_set import DATASET_FILE, DataSet
from components.storage import ObjectStore


def publish(folder: str | Path, bucket: str) -> str:
    """Upload a data set folder to datasets/<digest> of the bucket, once; returns its s3:// address.

    The description goes last: a folder without it is an upload that was cut short, and is sent again.
    """
    store, digest = ObjectStore(bucket), DataSet.load(folder).digest
    prefix = f"datasets/{digest}"
    if store.head(f"{prefix}/{DATASET_FILE}") is None:
        for path in sorted(Path(folder).iterdir(), key=lambda p: p.name == DATASET_FILE):
            store.upload(path, f"{prefix}/{path.name}")
    return store.uri(prefix)
