"""What a port speaks that takes connections and drops every SSH client: a web server there is a wrong port."""

from __future__ import annotations

import asyncio

ASK_S = 2.0


async def is_web_server(host: str, port: int) -> bool:
    """Whether HTTP is spoken at *port* of *host*; False where nobody says so within `ASK_S` seconds."""
    writer = None
    try:
        async with asyncio.timeout(ASK_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            return (await reader.read(5)).startswith(b"HTTP/")
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.transport.abort()
