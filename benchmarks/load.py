"""A load generator for HTTP servers: keep-alive connections in one event loop, as little Python a request as can be."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Answer:
    """One request: its status, when it was due and when it was answered (seconds since the load began)."""

    status: int
    due: float
    answered: float


@dataclass
class Answers:
    """What came back of a load of so many seconds."""

    seconds: float
    all: list[Answer] = field(default_factory=list)

    def rate(self, status: int = 200) -> float:
        """Answers of this status a second, while the load lasted; those that came after it do not count."""
        return sum(a.status == status and a.answered <= self.seconds for a in self.all) / self.seconds

    def milliseconds(self, percent: float, status: int = 200) -> float:
        """This percentile of the latencies of those answers; not a number if there were none."""
        latencies = [a.answered - a.due for a in self.all if a.status == status]
        return 1000 * float(np.percentile(latencies, percent)) if latencies else float("nan")


class Client:
    """Posts JSON bodies to one address of a server on this machine."""

    def __init__(self, port: int, path: str, bodies: Sequence[bytes]) -> None:
        self._port = port
        self._requests = [
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode() + body
            for body in bodies
        ]  # fmt: skip
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def closed_loop(self, clients: int, seconds: float) -> Answers:
        """So many clients, each asking again as soon as it is answered."""
        found, start = Answers(seconds), time.perf_counter()

        async def ask_again(number: int) -> None:
            while (due := time.perf_counter() - start) < seconds:
                number += clients
                found.all.append(await self._ask(number, start, due))

        await asyncio.gather(*(ask_again(number) for number in range(clients)))
        return found

    async def open_loop(self, rate: float, seconds: float, seed: int) -> Answers:
        """Requests at random times (a Poisson process), whatever the answers; each counts from when it was due."""
        found, tasks = Answers(seconds), []
        gaps = np.random.default_rng(seed).exponential(1 / rate, int(2 * rate * seconds) + 10)
        start = time.perf_counter()

        async def ask(number: int, due: float) -> None:
            found.all.append(await self._ask(number, start, due))

        for number, due in enumerate(np.cumsum(gaps).tolist()):
            if due > seconds:
                break
            await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(number, due)))
        await asyncio.gather(*tasks)
        return found

    async def _ask(self, number: int, start: float, due: float) -> Answer:
        """One request; the connection is used again."""
        connection = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = connection
        writer.write(self._requests[number % len(self._requests)])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        self._idle.append(connection)
        return Answer(int(head.split(b" ", 2)[1]), due, time.perf_counter() - start)
