"""everbert status: where a model stands, read from the object store alone; and what comes next, in words."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from components.accounting import outcomes
from components.config import RetrainSettings
from components.deployment import pointer
from components.drift import ledger, sequential
from components.drift.state import Entry, Retrain, State
from components.storage import ObjectStore
from pipelines import claims
from pipelines.check_outputs import record_key

Result = dict[str, Any]


def status(store: ObjectStore, model_name: str, settings: RetrainSettings, at: datetime | None = None) -> Result:
    """Plain values; None where there is nothing yet. Raises StorageError for what is damaged."""
    now = at or datetime.now(UTC)
    champion = pointer.read(store, model_name)
    if champion is None:
        nobody = f"No version of {model_name} is champion: train a first one (everbert submit, or everbert run)."
        empty = dict.fromkeys(("champion", "evidence", "last_check", "last_retrain"))
        return {"model": model_name, **empty, "last_rollout": _last_rollout(store, model_name), "next": nobody}
    served = champion[0]
    state, _ = ledger.read(store, model_name, served.model_version)
    check = _last_check(store, state, now)
    trained = _last_retrain(store, state, now, settings)
    bar = sequential.bar(settings.false_retrain_budget, settings.checks_a_year)
    return {
        "model": model_name,
        "champion": {
            "version": served.version,
            "model_version": served.model_version,
            "uri": served.uri,
            "previous": (served.previous or {}).get("version"),
        },
        "evidence": {"value": state.evidence, "alarm_at": bar, "windows": state.windows, "texts": state.rows},
        "last_check": check,
        "last_retrain": trained,
        "last_rollout": _last_rollout(store, model_name),
        "next": _next(check, trained, state),
    }


def _last_check(store: ObjectStore, state: State, now: datetime) -> Result | None:
    """The last check that had anything new; one that has not leaves no trace."""
    if not state.history:
        return None
    entry: Entry = state.history[-1]
    key = record_key(state.model_version, entry.number)
    found = store.get(key)
    reason = json.loads(found[0])["reason"] if found else ""
    return {**asdict(entry), "hours_ago": _hours(entry.at, now), "reason": reason, "record": key}


def _last_retrain(store: ObjectStore, state: State, now: datetime, settings: RetrainSettings) -> Result | None:
    """`state`: promote, keep, failed or lapsed, as the ledger has it; else submitted, or waiting to be submitted."""
    if not state.retrains:
        return None
    last: Retrain = state.retrains[-1]
    line, claim = outcomes.find(store, last.id), claims.claim_of(store, last.id)
    hours = _hours(last.at, now)
    if line:
        came, reason = line.verdict, line.reason
    elif claim and claim.lapsed:
        came, reason = "lapsed", claim.lapsed
    elif claim and claim.run:
        came, reason = "submitted", ""
    else:
        came, reason = ("waiting" if hours < settings.cooldown_hours else "lapsed"), ""
    return {
        "id": last.id,
        "at": last.at,
        "hours_ago": hours,
        "state": came,
        "reason": reason,
        "run": claim.run if claim else "",
        "cause": str(last.arguments.get("cause", "")),
    }


def _last_rollout(store: ObjectStore, model_name: str) -> Result | None:
    """Of the model to a cluster, finished or not. A record that says under_way and is old was killed."""
    records = [json.loads(found[0]) for item in store.list("decisions/rollout-") if (found := store.get(item.key))]
    ours = [record for record in records if record["to"]["name"] == model_name]
    if not ours:
        return None
    last = max(ours, key=lambda record: record["at"])
    kept = {name: last[name] for name in ("at", "inference_service", "verdict", "reason")}
    return {**kept, "version": last["to"]["version"], "percent": last["steps"][-1]["percent"] if last["steps"] else 0}


def _next(check: Result | None, trained: Result | None, state: State) -> str:
    if trained and trained["state"] == "waiting":
        return f"The next check that may submit runs submits the retrain {trained['id']}."
    if trained and trained["state"] == "submitted":
        return f"The retrain {trained['id']} is under way (run {trained['run']}), and may bring a successor."
    if check is None:
        return "No check has had a full window of this version's texts yet: the next one that has tests it."
    if check["verdict"] == "wait" and state.request:
        return f"Fill in the labels of {state.request}: the check waits. {check['reason']}"
    said = {
        "wait": f"The check waits, and retrains once it need not. {check['reason']}",
        "warn": f"The texts have changed and nothing shows harm: nothing is done. {check['reason']}",
        "retrain": "The evidence starts anew; the next full window is tested.",
    }
    return said.get(check["verdict"], "Nothing: the next full window is tested.")


def _hours(since: str, now: datetime) -> float:
    return round((now - datetime.fromisoformat(since)).total_seconds() / 3600, 1)
