"""Makes everything in this folder from the four corpora: python samples/make.py --corpora DIR

DIR holds movies.csv, amazon.csv, tweets.csv and nyt.csv with the columns id, text, rating, label, and
neutral/movies.csv with the columns id, text, rating.
The same corpora give the same bytes.
"""

import argparse
import csv
import gzip
import hashlib
import io
import re
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOMAINS = {"products": "amazon", "tweets": "tweets", "news": "nyt"}
ARCHIVE_ROWS = 6500
INCOMING_ROWS = 600
TEST_EVERY = 10  # of the rows of movies.tar.gz
ROWS_A_CLASS = 300
SIMILARITY = 0.8

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def order_of(row: Row) -> bytes:
    """A pseudo-random place that depends on the text alone."""
    return hashlib.sha256(row["text"].encode()).digest()


def grams(text: str) -> frozenset[str]:
    plain = re.sub(r"\W+", "", text.casefold())
    return frozenset(plain[i : i + 5] for i in range(max(1, len(plain) - 4)))


def without_near_duplicates(rows: list[Row]) -> list[Row]:
    """The rows, without each whose character 5-grams overlap an earlier row's by SIMILARITY (Jaccard) or more."""
    kept: list[Row] = []
    sets: list[frozenset[str]] = []
    holders: dict[str, list[int]] = {}
    for row in rows:
        new = grams(row["text"])
        shared: dict[int, int] = {}
        for gram in new:
            for other in holders.get(gram, ()):
                shared[other] = shared.get(other, 0) + 1
        if any(n / (len(new) + len(sets[other]) - n) >= SIMILARITY for other, n in shared.items()):
            continue
        for gram in new:
            holders.setdefault(gram, []).append(len(sets))
        kept.append(row)
        sets.append(new)
    return kept


def archive_name(place: int, row: Row, test_every: int) -> str:
    """Like the aclImdb archive's train/pos/123_7.txt: the id, then the rating on its scale of 1 to 10."""
    split = "test" if place % test_every == 0 else "train"
    rating = min(10, max(1, round(5.5 + float(row["rating"]) * 4.5 / 4)))
    return f"{split}/{'pos' if row['label'] == '1' else 'neg'}/{row['id']}_{rating}.txt"


def write_archive(path: Path, rows: list[Row], test_every: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    members = sorted((archive_name(place, row, test_every), row["text"].encode()) for place, row in enumerate(rows))
    with (
        open(path, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in members:
            member = tarfile.TarInfo(f"movies/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_csv(path: Path, columns: list[str], rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def with_prefix(domain: str, rows: list[Row]) -> list[Row]:
    return [{**row, "id": f"{domain}-{row['id']}"} for row in rows]


def three_classes(movies: list[Row], corpora: Path) -> list[Row]:
    neutral = [row | {"label": "Neutral"} for row in read(corpora / "neutral" / "movies.csv")]
    named = [row | {"label": ("Negative", "Positive")[int(row["label"])]} for row in movies]
    chosen: list[Row] = []
    for label, rows in (("Negative", named), ("Neutral", neutral), ("Positive", named)):
        chosen += sorted((row for row in rows if row["label"] == label), key=order_of)[:ROWS_A_CLASS]
    return with_prefix("movies", sorted(chosen, key=order_of))


def make(corpora: Path) -> None:
    movies = without_near_duplicates(sorted(read(corpora / "movies.csv"), key=order_of))
    end = ARCHIVE_ROWS + INCOMING_ROWS
    write_archive(HERE / "movies.tar.gz", movies[:ARCHIVE_ROWS], TEST_EVERY)
    write_archive(HERE / "held_out" / "movies.tar.gz", movies[end:], test_every=1)
    write_csv(HERE / "three_classes.csv", ["id", "text", "label"], three_classes(movies, corpora))
    incoming = {"movies": movies[ARCHIVE_ROWS:end]}
    incoming |= {domain: read(corpora / f"{corpus}.csv") for domain, corpus in DOMAINS.items()}
    for domain, found in incoming.items():
        rows = with_prefix(domain, found)
        write_csv(HERE / "incoming" / f"{domain}.csv", ["id", "text"], rows)
        write_csv(HERE / "labels" / f"{domain}.csv", ["id", "label"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the four CSV files")
    make(parser.parse_args().corpora)
