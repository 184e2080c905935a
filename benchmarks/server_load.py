"""`python -m benchmarks.server_load soak --model run/model` and `... rate --model run/model`.

`soak`: many clients send texts, pictures and pages at once, for minutes; how long answers took,
what failed, how much memory was kept. `rate`: texts per second over HTTP against `Embedder.encode`
in this process, in turn, and what HTTP adds to one short text. Server and clients share a machine.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.items import make_pdf, make_photo, make_texts
from benchmarks.machine import machine, when

__all__ = ["Connection", "Load", "Server", "bodies", "served", "soak_clients"]

app = typer.Typer(add_completion=False, no_args_is_help=True)

_PATH = "/v1/embeddings"
_JSON = "content-type: application/json\r\n"
_SHARES = {"text": 0.6, "texts": 0.2, "image": 0.15, "pdf": 0.05}


@dataclass
class Server:
    """A `mmembed serve` process."""

    process: asyncio.subprocess.Process
    port: int

    def resident_mb(self) -> dict[str, float]:
        """Of the server and of its decode processes."""
        task = Path(f"/proc/{self.process.pid}/task")
        children = [pid for path in task.glob("*/children") for pid in path.read_text().split()]
        return {
            "server": _resident_mb(str(self.process.pid)),
            "decoders": sum(map(_resident_mb, children)),
        }


@asynccontextmanager
async def served(model: Path | str, *options: str) -> AsyncIterator[Server]:
    """A server while the block runs; SIGTERM ends it, which has to give exit code 0."""
    command = [sys.executable, "-m", "mmembed", "serve", "--model", str(model), "--port", "0"]
    process = await asyncio.create_subprocess_exec(
        *command, "--no-access-log", *options, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = b""
    while b" -d " not in said:
        line = await process.stderr.readline()
        assert line, said.decode()
        said += line
    found = re.search(rb" at http://127.0.0.1:(\d+)", said)
    assert found, said
    rest = asyncio.create_task(process.stderr.read())  # or the pipe would fill up
    try:
        yield Server(process, int(found[1]))
    finally:
        process.terminate()
        code = await process.wait()
        errors = (await rest).decode().strip()
        assert code == 0, f"exit code {code}: {errors}"
        if errors:
            typer.echo(f"the server said: {errors[:2000]}", err=True)


class Connection:
    """HTTP/1.1 as far as a client of this server needs it, at a tenth of a library's cost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        verb = "GET" if body is None else "POST"
        head = f"{verb} {path} HTTP/1.1\r\nhost: localhost\r\n"
        if body is not None:
            head += f"{_JSON}content-length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + (body or b""))
        await writer.drain()
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        content = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(first.split()[1]), headers, content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Load:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[str] = field(default_factory=Counter)
    items: int = 0
    memory: list[dict[str, float]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Milliseconds of answered requests by kind; statuses; memory at the start and the end."""
        times = {kind: _milliseconds(values) for kind, values in sorted(self.seconds.items())}
        return {"milliseconds": times, "statuses": dict(self.statuses), "items": self.items}


def bodies(folder: Path, *, seed: int = 0) -> dict[str, list[tuple[bytes, int]]]:
    """Requests of each kind, and how many items each has."""
    texts = make_texts(512, seed=seed)
    made: dict[str, list[tuple[bytes, int]]] = {
        "text": [(_body([text]), 1) for text in texts[:256]],
        "texts": [(_body(texts[at : at + 8]), 8) for at in range(256, 512, 8)],
    }
    pictures = []
    for number in range(24):
        file = io.BytesIO()
        make_photo(640, 480, seed=number).save(file, "JPEG", quality=90)
        pictures.append(file.getvalue())
    made["image"] = [(_body([_uri("image", "image/jpeg", data)]), 1) for data in pictures]
    pdf = _uri("pdf", "application/pdf", make_pdf(folder / "pages.pdf", 6).read_bytes())
    made["pdf"] = [(_body([{**pdf, "pages": str(page)}]), 1) for page in range(1, 7)]
    return made


async def soak_clients(
    server: Server, made: dict[str, list[tuple[bytes, int]]], *, clients: int, seconds: float
) -> Load:
    """Every client sends its next request when the last one is answered; on 429 it waits."""
    load = Load()
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        chance, connection = random.Random(number), Connection(server.port)
        while time.perf_counter() < end:
            kind = chance.choices(list(_SHARES), list(_SHARES.values()))[0]
            body, count = chance.choice(made[kind])
            started = time.perf_counter()
            try:
                status, headers, answer = await connection.ask(_PATH, body)
            except (OSError, EOFError) as error:
                load.statuses[type(error).__name__] += 1
                connection.close()
                continue
            load.statuses[str(status)] += 1
            if status == 200:
                load.seconds[kind].append(time.perf_counter() - started)
                load.items += count
            elif status == 429:
                await asyncio.sleep(float(headers["retry-after"]) * chance.random())
            elif load.statuses[str(status)] == 1:
                typer.echo(f"{status}: {answer[:500].decode()}", err=True)
        connection.close()

    async def health() -> None:
        connection = Connection(server.port)
        while time.perf_counter() < end:
            started = time.perf_counter()
            status, _, _ = await connection.ask("/health")
            load.statuses[f"health {status}"] += 1
            load.seconds["health"].append(time.perf_counter() - started)
            load.memory.append(server.resident_mb())
            await asyncio.sleep(0.5)
        connection.close()

    await asyncio.gather(health(), *(client(number) for number in range(clients)))
    return load


@app.command()
def soak(
    model: Annotated[str, typer.Option("--model", "-m")],
    clients: Annotated[int, typer.Option(min=1)] = 64,
    minutes: Annotated[float, typer.Option(min=0.1)] = 5.0,
    out: Annotated[Path | None, typer.Option(help="Write the record as JSON.")] = None,
) -> None:
    """Mixed load; memory is compared with that after the first fifth of the time."""

    async def run(folder: Path) -> dict[str, Any]:
        async with served(model) as server:
            started = time.perf_counter()
            load = await soak_clients(server, bodies(folder), clients=clients, seconds=60 * minutes)
            took = time.perf_counter() - started
            found = load.summary() | {"items_per_second": round(load.items / took, 1)}
            warm = load.memory[len(load.memory) // 5 :]
            for who in ("server", "decoders"):
                values = [one[who] for one in warm]
                found[f"{who}_mb"] = {
                    "start": round(float(np.median(values[:10])), 1),
                    "end": round(float(np.median(values[-10:])), 1),
                    "most": round(max(values), 1),
                }
            return found

    with tempfile.TemporaryDirectory() as folder:
        record = asyncio.run(run(Path(folder)))
    _report(record | {"clients": clients, "minutes": minutes}, out)


@app.command()
def rate(
    model: Annotated[str, typer.Option("--model", "-m")],
    clients: Annotated[int, typer.Option(min=1)] = 32,
    items: Annotated[int, typer.Option(min=1, help="Of one request.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Of one client and round.")] = 16,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    length: Annotated[int, typer.Option(min=1, help="Words of a text, about.")] = 40,
    encoding: Annotated[str, typer.Option(help="float or base64")] = "base64",
    out: Annotated[Path | None, typer.Option(help="Write the record as JSON.")] = None,
) -> None:
    """Texts per second over HTTP and in process, in turn; and one short text alone."""
    from mmembed import Embedder

    total = clients * items * requests
    embedder = Embedder.from_pretrained(model)

    async def run() -> dict[str, Any]:
        ratios, rates, alone = [], [], []
        async with served(model) as server:
            connections = [Connection(server.port) for _ in range(clients)]
            for number in range(rounds + 1):
                texts = make_texts(total, seed=number, median_words=length)
                started = time.perf_counter()
                embedder.encode(texts)
                here = total / (time.perf_counter() - started)
                made = [
                    _body(texts[at : at + items], encoding_format=encoding)
                    for at in range(0, total, items)
                ]

                async def client(which: int, made: Sequence[bytes] = made) -> None:
                    for at in range(which, len(made), clients):
                        status, _, answer = await connections[which].ask(_PATH, made[at])
                        assert status == 200, answer[:500]

                started = time.perf_counter()
                await asyncio.gather(*map(client, range(clients)))
                there = total / (time.perf_counter() - started)
                if number:  # the first one warms both up
                    ratios.append(there / here)
                    rates.append((there, here))
            for number in range(200):
                body = _body([f"a short text {number}"])
                started = time.perf_counter()
                await connections[0].ask(_PATH, body)
                middle = time.perf_counter()
                embedder.encode([f"a short text, {number}"])
                alone.append((middle - started, time.perf_counter() - middle))
            for connection in connections:
                connection.close()
        http, direct = np.median(alone, axis=0) * 1000
        return {
            "ratio": round(float(np.median(ratios)), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "texts_per_second": {
                "http": round(float(np.median([pair[0] for pair in rates]))),
                "encode": round(float(np.median([pair[1] for pair in rates]))),
            },
            "one_text_milliseconds": {
                "http": round(float(http), 2),
                "encode": round(float(direct), 2),
                "added": round(float(http - direct), 2),
            },
        }

    record = asyncio.run(run())
    _report(record | {"clients": clients, "items": items, "words": length}, out)


def _report(record: dict[str, Any], out: Path | None) -> None:
    record = when() | {"machine": machine("cpu")} | record
    text = json.dumps(record, indent=2)
    typer.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


def _body(items: Sequence[Any], **options: Any) -> bytes:
    return json.dumps({"input": list(items), **options}).encode()


def _uri(kind: str, media_type: str, data: bytes) -> dict[str, str]:
    return {kind: f"data:{media_type};base64,{base64.b64encode(data).decode()}"}


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    middle, high, highest = np.percentile(np.array(seconds) * 1000, (50, 95, 99))
    values = {"p50": middle, "p95": high, "p99": highest, "most": max(seconds) * 1000}
    return {"count": len(seconds)} | {name: round(float(v), 1) for name, v in values.items()}


def _resident_mb(pid: str) -> float:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):  # it has ended
        return 0.0
    return int(pages) * 4096 / 1e6


if __name__ == "__main__":
    app()
