"""The five fields of a CronJob's schedule: whether they are right, and how often they come true."""

_RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


def times_a_year(schedule: str) -> int:
    """For schedules of minutes and hours. Raises ValueError for a schedule that Kubernetes would refuse."""
    fields = schedule.split()
    if len(fields) != len(_RANGES):
        raise ValueError(f"{schedule!r} has {len(fields)} fields, not 5")
    chosen = [_values(field, *limits) for field, limits in zip(fields, _RANGES, strict=True)]
    days = 365 if fields[2:] == ["*", "*", "*"] else len(chosen[2]) * len(chosen[3])
    return len(chosen[0]) * len(chosen[1]) * days


def _values(field: str, name: str, lowest: int, highest: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        bounds = (lowest, highest) if span == "*" else (first, last or (highest if step else first))
        try:
            low, high, by = int(bounds[0]), int(bounds[1]), int(step or 1)
        except ValueError as error:
            raise ValueError(f"{field!r} is no {name}") from error
        if not (lowest <= low <= high <= highest and by >= 1):
            raise ValueError(f"{field!r} is no {name}: from {lowest} to {highest}")
        found |= set(range(low, high + 1, by))
    return found
