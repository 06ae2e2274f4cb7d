"""The object store, and the only use of boto3.

Endpoint and credentials come from the environment, under boto3's own names: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)

from components.errors import ConflictError, InputError, StorageError

_REFUSED = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "403",
    "Forbidden",
    "ExpiredToken",
    "InvalidToken",
}
_MISSING = {"NoSuchKey", "404", "NotFound"}
PART_BYTES = 32 << 20  # S3 takes at most 10,000 parts of an object
_CONFLICT = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


@dataclass(frozen=True)
class StoredObject:
    """An object's key, size in bytes and entity tag (changes when the content does)."""

    key: str
    size: int
    etag: str


def is_s3(location: str | Path) -> bool:
    return str(location).startswith("s3://")


def split_uri(uri: str) -> tuple[str, str]:
    """("bucket", "key/or/prefix") of an s3:// address; the second part may be empty."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise StorageError(f"{uri!r} is not an object store address; expected s3://BUCKET or s3://BUCKET/PREFIX")
    return parts.netloc, parts.path.lstrip("/")


def bucket_of(uri: str) -> str:
    """The bucket of s3://BUCKET. Raises InputError where a prefix follows, which nothing would heed."""
    bucket, prefix = split_uri(uri)
    if prefix:
        raise InputError(f"{uri} names a prefix, and Everbert needs a bucket of its own: give s3://{bucket}")
    return bucket


class ObjectStore:
    """One bucket. Every error is a StorageError that names the endpoint and what to do."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        config = Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 3, "mode": "standard"})
        with self._errors():
            # A session of its own: boto3's default session is not safe to share between threads.
            try:
                self._client = boto3.session.Session().client("s3", config=config)
            except ValueError as error:
                raise StorageError(
                    f"AWS_ENDPOINT_URL is not an address: {self.endpoint!r}; expected http://HOST:PORT"
                ) from error

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def create_bucket(self) -> None:
        """Make the bucket; no error if it is there already."""
        with self._errors():
            try:
                self._client.create_bucket(Bucket=self.bucket)
            except ClientError as error:
                if _code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                    raise

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Objects under `prefix`, in key order."""
        with self._errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield StoredObject(item["Key"], item["Size"], item["ETag"].strip('"'))

    def head(self, key: str) -> StoredObject | None:
        """The object's description, or None if there is no such object."""
        with self._errors(key):
            try:
                answer = self._client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            return StoredObject(key, answer["ContentLength"], answer["ETag"].strip('"'))

    def get(self, key: str) -> tuple[bytes, str] | None:
        """(content, entity tag), or None if there is no such object."""
        with self._errors(key):
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            return answer["Body"].read(), answer["ETag"].strip('"')

    def put(self, key: str, content: bytes, *, if_match: str | None = None, only_if_new: bool = False) -> str:
        """Write an object whole and return its entity tag.

        `if_match` writes only over the version with that tag, `only_if_new` only where nothing is: otherwise
        ConflictError, and the object is untouched.
        """
        with self._errors(key, conflict=bool(if_match or only_if_new)):
            where = {"Bucket": self.bucket, "Key": key}
            answer = self._client.put_object(Body=content, **where, **_condition(if_match, only_if_new))
            return str(answer["ETag"]).strip('"')

    def publish(
        self,
        path: str | Path,
        key: str,
        metadata: dict[str, str],
        *,
        if_match: str | None = None,
        only_if_new: bool = False,
    ) -> None:
        """Upload a file of any size with `metadata` (ASCII), under the same conditions as `put`.

        A process that is killed in the middle of a large file leaves an upload that nobody sees; a lifecycle rule of
        the bucket (AbortIncompleteMultipartUpload) clears those away.
        """
        where = {"Bucket": self.bucket, "Key": key}
        condition = _condition(if_match, only_if_new)
        with self._errors(key, conflict=bool(condition)), open(path, "rb") as file:
            if os.path.getsize(path) <= PART_BYTES:
                self._client.put_object(Body=file, Metadata=metadata, **where, **condition)
                return
            upload = self._client.create_multipart_upload(Metadata=metadata, **where)["UploadId"]
            try:
                parts = [
                    {"PartNumber": n, "ETag": self._upload_part(where, upload, n, content)}
                    for n, content in enumerate(iter(lambda: file.read(PART_BYTES), b""), 1)
                ]
                self._client.complete_multipart_upload(
                    UploadId=upload, MultipartUpload={"Parts": parts}, **where, **condition
                )
            except BaseException:
                with contextlib.suppress(ClientError, BotoCoreError):
                    self._client.abort_multipart_upload(UploadId=upload, **where)
                raise

    def _upload_part(self, where: dict[str, str], upload: str, number: int, content: bytes) -> str:
        return str(self._client.upload_part(UploadId=upload, PartNumber=number, Body=content, **where)["ETag"])

    def metadata(self, key: str) -> tuple[dict[str, str], str] | None:
        """(what `publish` was given with the object, entity tag), or None if there is no such object."""
        with self._errors(key):
            try:
                answer = self._client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            return answer["Metadata"], answer["ETag"].strip('"')

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        with self._errors(key):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def upload(self, path: str | Path, key: str) -> None:
        """Upload a file of any size; the object appears whole or not at all."""
        with self._errors(key), open(path, "rb") as file:
            self._client.upload_fileobj(file, self.bucket, key)  # upload_file would hide the client's error in its own

    def download(self, key: str, path: str | Path) -> None:
        """Download an object to `path`, which appears whole or not at all."""
        with self._errors(key):
            try:
                self._client.download_file(self.bucket, key, str(path))
            except ClientError as error:
                if _code(error) in _MISSING:
                    raise StorageError(f"there is no object {self.uri(key)}") from error
                raise

    def download_version(self, key: str, etag: str, path: str | Path) -> None:
        """Download the version of an object that has that entity tag; ConflictError if the object has another now."""
        with self._errors(key, conflict=True):
            answer = self._client.get_object(Bucket=self.bucket, Key=key, IfMatch=f'"{etag}"')
            with open(path, "wb") as file:
                shutil.copyfileobj(answer["Body"], file, 1 << 20)

    def upload_folder(self, folder: str | Path, prefix: str) -> None:
        """Upload every file below `folder` to the same relative key under `prefix`."""
        folder = Path(folder)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.upload(path, f"{prefix.rstrip('/')}/{path.relative_to(folder).as_posix()}")

    def download_folder(self, prefix: str, folder: str | Path) -> None:
        """Download every object under `prefix` to the same relative path below `folder`, and none outside of it."""
        prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        found = False
        for item in self.list(prefix):
            if item.key.endswith("/"):
                continue  # a folder, as some consoles make them
            found = True
            path = path_below(folder, item.key[len(prefix) :])
            path.parent.mkdir(parents=True, exist_ok=True)
            self.download(item.key, path)
        if not found:
            raise StorageError(f"there is nothing under {self.uri(prefix)}")

    @contextlib.contextmanager
    def _errors(self, key: str = "", *, conflict: bool = False) -> Iterator[None]:
        """Every error as a StorageError; with `conflict`, a condition that does not hold as a ConflictError."""
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StorageError(
                f"no credentials for the object store {self.endpoint}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except (EndpointConnectionError, ConnectTimeoutError) as error:
            raise StorageError(
                f"the object store {self.endpoint} does not answer: is it up, and is AWS_ENDPOINT_URL right?"
            ) from error
        except ClientError as error:
            code = _code(error)
            if conflict and code in _CONFLICT | _MISSING:
                raise ConflictError(f"{self.uri(key)} was written by somebody else") from error
            if code in _REFUSED:
                raise StorageError(
                    f"the object store {self.endpoint} refused the credentials for {self.uri(key)} ({code}): "
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do"
                ) from error
            if code == "NoSuchBucket":
                raise StorageError(f"there is no bucket {self.bucket!r} in the object store {self.endpoint}") from error
            raise StorageError(f"the object store {self.endpoint} failed on {self.uri(key)}: {error}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise StorageError(f"the object store {self.endpoint} failed on {self.uri(key)}: {error}") from error


def path_below(folder: str | Path, name: str) -> Path:
    """Where the part `name` of an object's key goes below `folder`. A key may be any text: raises StorageError."""
    if name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise StorageError(f"the object store holds an object with the unsafe name {name!r}; rename it")
    return Path(folder) / name


@contextlib.contextmanager
def local_folder(location: str | Path) -> Iterator[Path]:
    """A folder on disk with what is at `location`: itself, or an s3:// prefix downloaded for as long as needed."""
    if not is_s3(location):
        yield Path(location)
        return
    bucket, prefix = split_uri(str(location))
    with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
        ObjectStore(bucket).download_folder(prefix, folder)
        yield Path(folder)


@contextlib.contextmanager
def written_folder(location: str | Path) -> Iterator[Path]:
    """Where to write the folder that is to be at `location`: there, or, for s3://, to a place that is uploaded."""
    if not is_s3(location):
        yield Path(location)
        return
    bucket, prefix = split_uri(str(location))
    with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
        yield Path(folder) / "folder"
        ObjectStore(bucket).upload_folder(Path(folder) / "folder", prefix)


def _condition(if_match: str | None, only_if_new: bool) -> dict[str, str]:
    return {"IfMatch": if_match} if if_match else {"IfNoneMatch": "*"} if only_if_new else {}


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
