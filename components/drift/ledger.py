"""The state object of a model version in the object store: ledger/drift/<model name>/<model version>.json.

It is changed only by a conditional put, and a check's whole effect is one such put: a check that was overtaken reads
the state again and recomputes. So no window is counted twice, and a crash between any two writes loses nothing.
"""

import json
from dataclasses import asdict

from components.drift import state as transitions
from components.drift.state import State
from components.errors import StorageError
from components.storage import ObjectStore

PREFIX = "ledger/drift"


def key_of(model_name: str, model_version: str) -> str:
    return f"{PREFIX}/{model_name}/{model_version}.json"


def read(store: ObjectStore, model_name: str, model_version: str) -> tuple[State, str | None]:
    """(state, entity tag to commit with); a version that no check has seen starts with the tag None.

    What other versions have counted and decided since they were last looked at is taken over: after a promotion, a
    rollback, or the commit of a check that still ran with the previous champion. Raises StorageError if damaged.
    """
    own = key_of(model_name, model_version)
    found = store.get(own)
    state = _parse(store, own, found[0]) if found else State(model_name, model_version)
    for item in store.list(f"{PREFIX}/{model_name}/"):
        version = item.key.rpartition("/")[2].removesuffix(".json")
        if item.key == own or state.took_over.get(version) == item.etag:
            continue
        other = store.get(item.key)
        if other:
            state = transitions.take_over(state, _parse(store, item.key, other[0]), other[1])
    return state, found[1] if found else None


def commit(store: ObjectStore, state: State, etag: str | None) -> str:
    """Put the state over the one that was read with `etag`; ConflictError if another check was faster."""
    content = json.dumps(asdict(state), ensure_ascii=False, allow_nan=False).encode()
    return store.put(key_of(state.model_name, state.model_version), content, if_match=etag, only_if_new=etag is None)


def _parse(store: ObjectStore, key: str, content: bytes) -> State:
    try:
        return transitions.from_json(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(
            f"{store.uri(key)} is damaged and says not what was counted ({' '.join(str(error).split())[:120]}); "
            "restore an earlier version of the object, or delete it to count everything again"
        ) from error
