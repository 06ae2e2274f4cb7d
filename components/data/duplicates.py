"""Near duplicates: MinHash over character 5-grams finds candidates, their true Jaccard similarity decides."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

GRAM = 5
BANDS = 16
BAND_ROWS = 4
# Long texts that have nothing to do with each other share one band so often that a million of them are 10 million
# pairs; two bands they hardly ever share. A pair with a similarity of 0.8 shares less than two in 0.3 % of the cases.
SHARED_BANDS = 2
SURE_SIMILARITY = 0.8  # below it, one shared band is enough
NEIGHBOURS = 20  # in a bucket, each row is compared with its leader and with this many before it
PAIRS_AT_A_TIME = 50_000

_RANDOM = np.random.default_rng(20140601)
_MULTIPLIERS = _RANDOM.integers(0, 2**32, BANDS * BAND_ROWS, dtype=np.uint32) | np.uint32(1)
_OFFSETS = _RANDOM.integers(0, 2**32, BANDS * BAND_ROWS, dtype=np.uint32)
_POWERS = np.array([pow(0x01000193, k, 2**32) for k in range(GRAM)], dtype=np.uint32)

Texts = Callable[[npt.NDArray[np.int64]], Mapping[int, str]]


def essence(text: str) -> str:
    """Letters and digits, without case; at least GRAM characters. A text without any stands for itself."""
    return ("".join(c for c in text.casefold() if c.isalnum()) or text).ljust(GRAM)


def grams(text: str) -> set[str]:
    plain = essence(text)
    return {plain[i : i + GRAM] for i in range(len(plain) - GRAM + 1)}


def jaccard(a: set[str], b: set[str]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def signatures(texts: Sequence[str]) -> npt.NDArray[np.uint32]:
    """One hash for each band, shape (texts, BANDS): similar texts share some with high probability."""
    plain = [essence(text) for text in texts]
    counts = np.array([len(p) - GRAM + 1 for p in plain])
    codes = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    ends = np.cumsum(counts + GRAM - 1)
    hashes = sum(codes[k : len(codes) - GRAM + 1 + k] * _POWERS[k] for k in range(GRAM))
    inside = np.ones(len(codes), dtype=bool)
    for k in range(1, GRAM):
        inside[ends - k] = False  # a gram that starts here would run into the next text
    hashes = np.asarray(hashes, dtype=np.uint32)[inside[: len(codes) - GRAM + 1]]
    hashes = (hashes ^ (hashes >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    hashes ^= hashes >> np.uint32(13)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    bands = np.zeros((len(plain), BANDS), dtype=np.uint32)
    for i, (multiplier, offset) in enumerate(zip(_MULTIPLIERS, _OFFSETS, strict=True)):
        smallest = np.minimum.reduceat(hashes * multiplier + offset, starts)
        bands[:, i // BAND_ROWS] = (bands[:, i // BAND_ROWS] ^ smallest) * np.uint32(0x9E3779B1)
    return bands


def candidates(
    bands: npt.NDArray[np.uint32], order: npt.NDArray[np.int64], shared: int = SHARED_BANDS
) -> npt.NDArray[np.uint64]:
    """Pairs of places in `order` whose rows share so many bands, each once, as later << 32 | earlier, ascending.

    bands: (rows, BANDS). order: row numbers, those to keep first.
    """
    found = np.empty(0, dtype=np.uint64)
    for band in range(bands.shape[1]):
        keys = bands[order, band]
        places = np.argsort(keys, kind="stable")
        keys = keys[places]
        behind = np.flatnonzero(keys[1:] == keys[:-1]) + 1  # places that share their key with the one before
        starts = np.flatnonzero(np.diff(behind, prepend=-1) > 1) if len(behind) else behind
        leader = np.repeat(behind[starts] - 1, np.diff(np.append(starts, len(behind))))
        pairs = [_pairs(places[leader], places[behind])]
        for k in range(1, NEIGHBOURS + 1):
            near = behind[behind - k > leader]
            pairs.append(_pairs(places[near - k], places[near]))
        new = np.concatenate(pairs)
        chunks = (new[start : start + PAIRS_AT_A_TIME] for start in range(0, len(new), PAIRS_AT_A_TIME))
        kept = (chunk[_shared(bands, order[_places(chunk)]) >= shared] for chunk in chunks)
        found = np.unique(np.concatenate([found, *kept]))
    return found


def _pairs(earlier: npt.NDArray[np.int64], later: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    return later.astype(np.uint64) << np.uint64(32) | earlier.astype(np.uint64)


def _places(pairs: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """(earlier, later) of each pair, shape (pairs, 2)."""
    return np.column_stack([pairs & np.uint64(0xFFFFFFFF), pairs >> np.uint64(32)]).astype(np.int64)


def _shared(bands: npt.NDArray[np.uint32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many bands the two rows of each pair share."""
    return (bands[rows[:, 0]] == bands[rows[:, 1]]).sum(axis=1)


def near_duplicates(
    bands: npt.NDArray[np.uint32],
    order: npt.NDArray[np.int64],
    protected: npt.NDArray[np.bool_],
    texts: Texts,
    similarity: float,
) -> npt.NDArray[np.bool_]:
    """Which rows of `order` are near duplicates of an earlier one that stays; those to keep come first.

    bands: (rows, BANDS). order: row numbers. protected: those of `order` that always stay. texts: gives the texts of
    some places in `order`.
    """
    removed = np.zeros(len(order), dtype=bool)
    shared = SHARED_BANDS if similarity >= SURE_SIMILARITY else 1
    pairs = candidates(bands, order, shared)  # by the later one: a row is settled before it may remove another
    for start in range(0, len(pairs), PAIRS_AT_A_TIME):
        chunk = pairs[start : start + PAIRS_AT_A_TIME]
        places = _places(chunk)
        places = places[~protected[places[:, 1]]]
        content = texts(np.unique(places))
        for earlier, later in places.tolist():
            if removed[earlier] or removed[later]:
                continue
            removed[later] = jaccard(grams(content[earlier]), grams(content[later])) >= similarity
    return removed
