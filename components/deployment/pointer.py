"""The champion pointer: the one small object that says which version is served. Servers follow it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from components.errors import ConflictError, StorageError
from components.storage import ObjectStore


@dataclass(frozen=True)
class Pointer:
    """Content of models/<name>/champion.json."""

    name: str
    version: str  # the registry's number
    model_version: str  # the model folder's own version
    uri: str
    previous: dict[str, Any] | None = None  # the last champion before this version, without its own previous
    rolled_back: dict[str, Any] | None = None
    """Written by a rollback: the version, model_version and uri that it took out of service, reason and time (at), and
    the inference_service that must follow; None: written by a deployment. Enough to finish a rollback that was killed.
    """


def key_of(name: str) -> str:
    return f"models/{name}/champion.json"


def read(store: ObjectStore, name: str) -> tuple[Pointer, str] | None:
    """(pointer, entity tag), or None where no version of the model is served. Raises StorageError if damaged."""
    pointer, etag = state(store, name)
    return (pointer, etag) if pointer and etag else None


def state(store: ObjectStore, name: str) -> tuple[Pointer | None, str | None]:
    """What a writer must know: the pointer (None: no version is served) and the object's tag (None: no object)."""
    found = store.get(key_of(name))
    if found is None:
        return None, None
    try:
        content = json.loads(found[0])
        return (Pointer(**content) if content else None), found[1]
    except (ValueError, TypeError) as error:
        raise StorageError(f"{store.uri(key_of(name))} is not a champion pointer; deploy a version again") from error


def write(store: ObjectStore, pointer: Pointer, etag: str | None) -> str:
    """Replace the pointer with that entity tag (None: there is no object yet) and return the new tag.

    Raises ConflictError, changing nothing, if somebody else wrote it meanwhile.
    """
    return _put(store, pointer.name, asdict(pointer), etag)


def put_back(store: ObjectStore, name: str, before: dict[str, Any] | None, etag: str) -> None:
    """Undo the `write` that returned `etag`: the pointer is `before`, or, for None, empty, which no server follows.

    Not a delete: not every object store can delete on condition. Raises ConflictError as `write` does.
    """
    _put(store, name, before or {}, etag)


def _put(store: ObjectStore, name: str, pointer: dict[str, Any], etag: str | None) -> str:
    content = json.dumps(pointer, indent=2).encode()
    try:
        return store.put(key_of(name), content, if_match=etag, only_if_new=etag is None)
    except ConflictError:  # or our own write, whose answer was lost and which was then sent again
        found = store.get(key_of(name))
        if found is None or found[0] != content:
            raise
        return found[1]
