"""The decision record: what was seen, what was asked of it, what was decided; enough to decide again."""

import json
from pathlib import Path
from typing import Any

from components.files import write_json
from components.storage import ObjectStore


def keep_record(record: dict[str, Any], path: Path, bucket: str) -> str:
    """Write a promotion's record to `path` and to decisions/ of the bucket; returns its key."""
    write_json(path, record)
    evaluation = record["evaluation"]
    key = f"decisions/promotion-{evaluation['data_set_digest'][:12]}-{evaluation['challenger']['model_version']}.json"
    ObjectStore(bucket).put(key, json.dumps(record, indent=2, ensure_ascii=False).encode())
    return key


def without_texts(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The evaluation as decisions keep it: all of the numbers, and no text of a review."""
    kept = {key: value for key, value in evaluation.items() if key != "worst_errors"}
    for role in ("challenger", "champion"):
        if kept.get(role):
            tests = [{k: v for k, v in test.items() if k != "failures"} for test in kept[role].get("behaviours", [])]
            kept[role] = kept[role] | {"behaviours": tests}
    return kept
