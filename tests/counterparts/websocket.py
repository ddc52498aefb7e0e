"""A WebSocket server and client that are not ours: Python's `websockets`, of version 10 or later.

    websocket.py server PORT
    websocket.py client URI

The server sends back each message, but for those that begin with an order. The client ends with 0 if everything held.
"""

import asyncio
import hashlib
import os
import sys

import websockets

# More than the largest message here.
MAX_SIZE = 16 * 1024 * 1024

# What one exchange may take.
WITHIN = 15


async def serve_one(socket):
    try:
        async for message in socket:
            if message == "order: ping":
                await asyncio.wait_for(await socket.ping(b"server's"), WITHIN)
                await socket.send("the pong came")
            elif isinstance(message, str) and message.startswith("order: close "):
                code, reason = message.removeprefix("order: close ").split(" ", 1)
                await socket.close(int(code), reason)
            else:
                await socket.send(message)
    except websockets.ConnectionClosed:
        # What code it was is told below, whoever closed.
        pass
    print(f"closed: {socket.close_code} {socket.close_reason}", flush=True)


async def serve(port):
    # No address: all of both families.
    async with websockets.serve(serve_one, None, port, max_size=MAX_SIZE):
        print("listening", flush=True)
        await asyncio.Future()


def connect(uri, compression):
    return websockets.connect(uri, max_size=MAX_SIZE, compression=compression, open_timeout=WITHIN)


async def exchange(socket, message, want=None):
    await socket.send(message)
    back = await asyncio.wait_for(socket.recv(), WITHIN)
    want = message if want is None else want
    assert type(back) is type(want), f"{type(want)} came back as {type(back)}"
    if back != want:
        digests = [hashlib.sha256(it if isinstance(it, bytes) else it.encode()).hexdigest() for it in (want, back)]
        raise AssertionError(f"{len(want)} were sent, {len(back)} came back: {digests}")


async def messages(uri, compression):
    async with connect(uri, compression) as socket:
        await exchange(socket, "Kette und Schuß ✓")
        await exchange(socket, "")
        await exchange(socket, bytes(range(256)))
        # Too random to be made small by compression.
        await exchange(socket, os.urandom(3 * 1024 * 1024))
        await exchange(socket, "weft ✓ " * 300_000)
        # In three frames, the message is one.
        await exchange(socket, ["warp ", "and ", "weft"], "warp and weft")
        await asyncio.wait_for(await socket.ping(b"client's"), WITHIN)
        await exchange(socket, "order: ping", "the pong came")
        # Quiet for a while, then alive.
        await asyncio.sleep(1)
        await exchange(socket, "still here")
        # Both directions at once.
        sent = [os.urandom(200_000) for _ in range(10)]
        sending = asyncio.gather(*(socket.send(message) for message in sent))
        received = [await asyncio.wait_for(socket.recv(), WITHIN) for _ in sent]
        await sending
        assert sorted(received) == sorted(sent), "not what was sent at once"


async def closes(uri):
    async with connect(uri, None) as socket:
        await socket.close(3001, "the client's")
        assert socket.close_code == 3001, f"the server confirmed {socket.close_code}"
    async with connect(uri, None) as socket:
        await socket.send("order: close 4002 the server's")
        try:
            message = await asyncio.wait_for(socket.recv(), WITHIN)
            raise AssertionError(f"{message!r} instead of the end")
        except websockets.ConnectionClosed:
            pass
        assert (socket.close_code, socket.close_reason) == (4002, "the server's"), (socket.close_code, socket.close_reason)
    # Away without a word, as by a crash; what the server makes of it stands in its log.
    socket = await connect(uri, None)
    await exchange(socket, "here")
    socket.transport.abort()


async def call(uri):
    for compression in (None, "deflate"):
        await messages(uri, compression)
    await closes(uri)
    print("held", flush=True)


def main():
    # Later versions heed a proxy's variables, which are not meant for a mesh.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    match sys.argv[1:]:
        case ["server", port]:
            asyncio.run(serve(int(port)))
        case ["client", uri]:
            asyncio.run(call(uri))
        case _:
            sys.exit(__doc__)


main()
