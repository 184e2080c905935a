"""The port, taken before a model is loaded: a port in use shows at once and not minutes later."""

from __future__ import annotations

import errno
import ipaddress
import socket

from mmembed.errors import ConfigError

__all__ = ["Taken", "address_of", "refusal_text", "take_port"]

Taken = socket.socket  # bound; it listens once the server is ready


def take_port(host: str, port: int) -> Taken:
    """A bound socket that does not listen yet: clients are refused until the server is ready.

    Raises:
        ConfigError: the port is in use or needs rights, or this machine has no such address.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host {host}: no such address; 127.0.0.1 is this machine") from None
    # named TCP, or asyncio does not set TCP_NODELAY and every second answer waits 40 ms
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise ConfigError(refusal_text(error, host, port)) from None
    return taken


def address_of(taken: Taken) -> str:
    """The address to type: `http://127.0.0.1:8000`."""
    host, port = taken.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def refusal_text(error: OSError, host: str, port: int) -> str:
    """What the system's refusal of an address means, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use; end the program that has it, or give another --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights; give a --port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine; 127.0.0.1 is"
    return f"--host {host} --port {port}: {error.strerror}"
