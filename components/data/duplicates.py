"""Near duplicates: MinHash over character 5-grams finds candidates, their true Jaccard similarity decides."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

GRAM = 5
BANDS = 16
BAND_ROWS = 4  # at a similarity of 0.8 a pair is missed with probability (1 - 0.8 ** 4) ** 16 = 0.0002
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


def candidates(bands: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Unique pairs (earlier, later) of row numbers that share a band, shape (pairs, 2), in order."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        keys = band[order]
        leader = np.maximum.accumulate(np.where(np.r_[True, keys[1:] != keys[:-1]], np.arange(len(keys)), 0))
        behind = np.flatnonzero(leader < np.arange(len(keys)))
        found.append(np.column_stack([order[leader[behind]], order[behind]]))
        for k in range(1, NEIGHBOURS + 1):
            near = behind[behind - k > leader[behind]]
            if not len(near):
                break
            found.append(np.column_stack([order[near - k], order[near]]))
        found = [np.unique(np.concatenate(found), axis=0)]
    return found[0].astype(np.int64)


def near_duplicates(
    bands: npt.NDArray[np.uint32], protected: npt.NDArray[np.bool_], texts: Texts, similarity: float
) -> npt.NDArray[np.bool_]:
    """Which rows are near duplicates of an earlier one that stays; rows come with those to keep first.

    bands: (rows, BANDS). protected: (rows,), rows that always stay. texts: gives the texts of some row numbers.
    """
    removed = np.zeros(len(bands), dtype=bool)
    pairs = candidates(bands)
    pairs = pairs[~protected[pairs[:, 1]]]
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]  # a row is settled before it may remove another
    for start in range(0, len(pairs), PAIRS_AT_A_TIME):
        chunk = pairs[start : start + PAIRS_AT_A_TIME]
        content = texts(np.unique(chunk))
        for earlier, later in chunk.tolist():
            if removed[earlier] or removed[later]:
                continue
            removed[later] = jaccard(grams(content[earlier]), grams(content[later])) >= similarity
    return removed
