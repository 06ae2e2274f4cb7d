"""How fast the model has shown to be, and what that lets in: a bound in seconds on the wait and on a batch."""

import math

_FIRST_SPEED = 4000.0  # tokens a second, before any was measured
_FIRST_SHARE = 0.1  # of the longest wait: for so long that first speed counts
_ROOM = 0.8  # of the longest wait, for what is expected: else half of the last ones to be let in would be too late
_BATCH_SHARE = 0.25  # of the longest wait, for one batch


class Pace:
    """All tokens are estimates; what they are wrong by is part of the speed. Seconds throughout."""

    def __init__(self, most_tokens: int, longest_wait: float) -> None:
        self._most_tokens, self.longest_wait = most_tokens, longest_wait
        self._seconds = _FIRST_SHARE * longest_wait  # with batches that were not small, the older the less
        self._tokens = _FIRST_SPEED * self._seconds  # of them

    def expected(self, tokens: float) -> float:
        """How long so many take."""
        return tokens * self._seconds / self._tokens

    def lets_in(self, waiting: float) -> bool:
        """Whether one that comes when so many tokens wait will be taken up in time."""
        return self.expected(waiting) <= _ROOM * self.longest_wait

    def batch_tokens(self) -> int:
        """Most tokens of a batch now."""
        return min(self._most_tokens, max(1, int(self.longest_wait * _BATCH_SHARE / self.expected(1))))

    def retry_after(self, waiting: float) -> int:
        """Whole seconds until so many are scored."""
        return max(1, math.ceil(self.expected(waiting)))

    def measure(self, tokens: float, seconds: float) -> None:
        """A small batch has much overhead and says nothing of the pace of the full ones that a queue is scored in."""
        if seconds < self.expected(tokens) or 2 * tokens >= self.batch_tokens():
            kept = self.longest_wait / (self.longest_wait + seconds)
            self._seconds = kept * self._seconds + seconds
            self._tokens = kept * self._tokens + tokens
