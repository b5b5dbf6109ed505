"""A TCP proxy that makes the way longer: every byte arrives later by half of the latency, in each direction.

usage: proxy.py LATENCY_MS PORT=TARGET_PORT...

Throughput is not limited: what is under way is queued.
"""

import asyncio
import sys
import time

CHUNK_BYTES = 256 << 10
# Number of chunks in transit in one direction, as on a long line.
QUEUED_MAX = 256


async def carry(reader, writer, delay_s):
    queue = asyncio.Queue(QUEUED_MAX)

    async def receive():
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            await queue.put((time.monotonic() + delay_s, chunk))
            if not chunk:
                return

    receiving = asyncio.ensure_future(receive())
    try:
        while True:
            due, chunk = await queue.get()
            await asyncio.sleep(max(0, due - time.monotonic()))
            if not chunk:
                writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        receiving.cancel()


async def serve(port, target, delay_s):
    async def connected(reader, writer):
        # The TCP handshake takes a round trip too.
        await asyncio.sleep(2 * delay_s)
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(carry(reader, to_writer, delay_s), carry(to_reader, writer, delay_s))
            to_writer.close()
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


async def main(latency_ms, *pairs):
    delay_s = float(latency_ms) / 2000
    await asyncio.gather(*(serve(*map(int, pair.split("=")), delay_s) for pair in pairs))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
