"""A bad line between two machines: a TCP relay that delays everything and now and then cuts a connection.

Kernels with `netem` can do this by themselves; not all have it, and cutting in the middle of an answer they cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator


class RoughWire:
    """An open relay; `cuts` counts the connections it cut in the middle of something, `carried` the bytes."""

    def __init__(self, target: int, *, delay_s: float, cut: float, seed: int) -> None:
        self._target, self._delay_s, self._cut = target, delay_s, cut
        self._rng = random.Random(seed)  # noqa: S311
        self.cuts = self.carried = self.port = 0
        self.loop = asyncio.new_event_loop()

    async def serve(self, host: str) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self._relay, host, 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        with contextlib.suppress(asyncio.CancelledError):  # the line is taken down
            await asyncio.gather(self._pump(reader, back, writer), self._pump(there, writer, back))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while block := await reader.read(16384):
                await asyncio.sleep(self._delay_s * self._rng.uniform(0.5, 1.5))
                if self._rng.random() < self._cut:
                    self.cuts += 1
                    writer.transport.abort()
                    other.transport.abort()
                    return
                self.carried += len(block)
                writer.write(block)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()


@contextlib.contextmanager
def rough_wire(
    target: int, *, host: str = "127.0.0.1", delay_s: float = 0.02, cut: float = 0.0, seed: int = 0
) -> Iterator[RoughWire]:
    """Relay connections to a port of this machine.

    Args:
        target: the port.
        host: address to listen on.
        delay_s: mean delay of every piece, in both directions.
        cut: share of pieces at which the connection is cut instead.
        seed: of delays and cuts.
    """
    wire = RoughWire(target, delay_s=delay_s, cut=cut, seed=seed)
    thread = threading.Thread(target=wire.loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(wire.serve(host), wire.loop).result(10)
    try:
        yield wire
    finally:

        async def end() -> None:
            server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), wire.loop).result(10)
        wire.loop.call_soon_threadsafe(wire.loop.stop)
        thread.join(10)
        wire.loop.close()
