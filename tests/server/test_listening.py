"""The port is taken in a way that keeps answers quick."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from mmembed.server.listening import take_port


def test_answers_do_not_wait_to_be_sent_together():
    """asyncio sets TCP_NODELAY only on sockets that name their protocol."""

    async def is_set() -> int:
        found = asyncio.get_running_loop().create_future()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            one = writer.get_extra_info("socket")
            found.set_result(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with contextlib.closing(take_port("127.0.0.1", 0)) as taken:
            async with await asyncio.start_server(accepted, sock=taken):
                _, writer = await asyncio.open_connection(*taken.getsockname())
                writer.close()
                return await found

    assert asyncio.run(is_set()) == 1
