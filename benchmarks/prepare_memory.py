"""How much memory and time `everbert prepare` takes on a large file.

    python benchmarks/prepare_memory.py --megabytes 1000

Writes a CSV of that size to a temporary folder: reviews put together from the sentences of the samples, so that few
are duplicates, with some copies and wrong labels. Then runs the command on it as a process of its own, and prints
rows, seconds, MB/s and the largest resident memory. A file of a tenth of the size tells what is fixed and what grows.

    python benchmarks/prepare_memory.py --megabytes 10      # a try, in seconds
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from components.config import DataSettings
from components.data.sources import read

SAMPLES = Path(__file__).parents[1] / "samples"
SENTENCES = (4, 14)  # fewest and most in one review; with them a review has about 1,000 characters
SEED = 7
MEGABYTE = 10**6


def sentences() -> list[str]:
    """The texts of the samples; each is a sentence or two."""
    texts = [row.text for row in read(str(SAMPLES / "movies.tar.gz"), DataSettings())]
    for path in sorted((SAMPLES / "incoming").glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            texts += [row["text"] for row in csv.DictReader(file)]
    return texts


def write_reviews(path: Path, size: int) -> int:
    """Write a CSV of about `size` bytes, 2 % of its rows copies and 0.1 % wrongly labelled; returns its rows."""
    chosen, pool = random.Random(SEED), sentences()  # noqa: S311
    rows, kept = 0, [pool[0]]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        while not rows or file.tell() < size:
            for _ in range(1000):
                text = " ".join(chosen.sample(pool, chosen.randint(*SENTENCES)))
                text = chosen.choice(kept) if chosen.random() < 0.02 else text
                label = "unknown" if chosen.random() < 0.001 else str(len(text) % 2)
                writer.writerow([rows, text, label])
                if len(kept) < 1000:
                    kept.append(text)
                rows += 1
    return rows


def prepare(source: Path, output: Path, *flags: str) -> dict[str, Any]:
    """Run the command; seconds of wall clock and of CPU, largest resident memory in MB, and what it printed."""
    command = [sys.executable, "-m", "pipelines", "prepare", "--json", "--source", str(source), "--output", str(output)]
    started = time.monotonic()
    process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    result = json.loads(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)  # the usage of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "wall_seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss * resource_unit() / MEGABYTE),
        "result": result,
    }


def resource_unit() -> int:
    """Bytes in one unit of ru_maxrss."""
    return 1 if sys.platform == "darwin" else 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the CSV (default: %(default)s)")
    size = parser.parse_args().megabytes
    (rows, few), (more_rows, many) = (measure(size * MEGABYTE // part) for part in (10, 1))
    result = many.pop("result")
    kept = sum(counts["rows"] for counts in result["counts"].values())
    grown = (many["peak_mb"] - few["peak_mb"]) * MEGABYTE / (more_rows - rows)
    print(f"{size} MB, {more_rows:,} rows, {kept:,} kept, {result['duplicates_removed']}, {result['quarantined']}")
    print(f"{many['wall_seconds']} s, {many['cpu_seconds']} s of CPU, {size / many['wall_seconds']:.1f} MB/s")
    print(f"peak {many['peak_mb']} MB, {few['peak_mb']} MB with {rows:,} rows: {grown:.0f} bytes more for each row")


def measure(size: int) -> tuple[int, dict[str, Any]]:
    """Rows, and what prepare takes, of a file of about `size` bytes."""
    with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
        rows = write_reviews(Path(folder) / "reviews.csv", size)
        return rows, prepare(Path(folder) / "reviews.csv", Path(folder) / "data")


if __name__ == "__main__":
    main()
