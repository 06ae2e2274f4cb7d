"""The champion pointer: the one small object that says which version is served. Servers follow it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from components.errors import StorageError
from components.storage import ObjectStore


@dataclass(frozen=True)
class Pointer:
    """Content of models/<name>/champion.json."""

    name: str
    version: str  # the registry's number
    model_version: str  # the model folder's own version
    uri: str
    previous: dict[str, Any] | None = None  # the pointer that this one replaced, without its own previous


def key_of(name: str) -> str:
    return f"models/{name}/champion.json"


def read(store: ObjectStore, name: str) -> tuple[Pointer, str] | None:
    """(pointer, entity tag), or None if no version of the model was ever deployed. Raises StorageError if damaged."""
    found = store.get(key_of(name))
    if found is None:
        return None
    try:
        return Pointer(**json.loads(found[0])), found[1]
    except (ValueError, TypeError) as error:
        raise StorageError(f"{store.uri(key_of(name))} is not a champion pointer; deploy a version again") from error


def write(store: ObjectStore, pointer: Pointer, etag: str | None) -> str:
    """Replace the pointer with that entity tag (None: there is none yet) and return the new tag.

    Raises ConflictError, changing nothing, if somebody else wrote it meanwhile.
    """
    content = json.dumps(asdict(pointer), indent=2).encode()
    return store.put(key_of(pointer.name), content, if_match=etag, only_if_new=etag is None)
