"""The process: what it says, how it ends, and what it survives."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import media_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

WAIT = 60.0


class Served:
    """A `mmembed serve` in a process of its own."""

    def __init__(self, checkpoint: Path, *options: str) -> None:
        command = [sys.executable, "-m", "mmembed", "serve", "--model", str(checkpoint)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--num-workers", "2", *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(120), self.said
        found = re.search(r" at (http://[0-9.:]+) ", "".join(self.said))
        assert found, self.said
        self.url = found[1]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if " -d " in line:
                self._ready.set()
        self._ready.set()

    def embed(self, items: list[Any], **options: Any) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/embeddings", json={"input": items, **options}, timeout=WAIT
        )

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=WAIT).text
        return sum(float(row.split()[-1]) for row in text.splitlines() if row.startswith(name))

    def children(self) -> list[int]:
        task = Path(f"/proc/{self.process.pid}/task")
        found = [path.read_text().split() for path in task.glob("*/children")]
        return [int(number) for numbers in found for number in numbers]

    def end(self) -> int:
        """Exit code."""
        code = self.process.wait(WAIT)
        self._reader.join(WAIT)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)


@contextmanager
def served(checkpoint: Path, *options: str) -> Iterator[Served]:
    server = Served(checkpoint, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.end()


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[Served]:
    with served(tiny_checkpoint, "--max-queue", "20000") as server:
        yield server


def png(seed: int) -> dict[str, str]:
    import base64

    data = media_files.encode_image(media_files.photo(320, 240, seed))
    return {"image": "data:image/png;base64," + base64.b64encode(data).decode()}


def test_it_says_where_it_is_and_how_to_ask(server: Served) -> None:
    said = "".join(server.said)
    command = said[said.index("curl") :].split("\n\n")[0]
    options = command.replace("\\\n", " ").split("'")
    assert json.loads(options[-2]) == {"input": ["a red bicycle"]}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["data"]) == 1
    assert httpx.get(f"{server.url}/ready").status_code == 200


def test_a_decode_process_that_is_killed_costs_no_request(server: Served) -> None:
    good = server.embed([png(1)]).json()["data"][0]["embedding"]
    workers = server.children()
    assert workers
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(server.embed, [png(1), png(n)]) for n in range(2, 26)]
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        for answer in answers:
            response = answer.result()
            assert response.status_code in (200, 429), response.text
            if response.status_code == 200:
                found = response.json()["data"][0]["embedding"]
                assert found == pytest.approx(good, abs=1e-5)
    assert server.embed([png(1)]).status_code == 200
    assert not set(server.children()) & set(workers)


def test_too_much_at_once_is_refused_with_a_time_to_come_back(server: Served) -> None:
    before = server.metric("mmembed_http_requests_total")
    items = [f"number {n} " + "of the " * 50 for n in range(100)]
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda _: server.embed(items), range(96)))
        alive = [threads.submit(httpx.get, f"{server.url}/health") for _ in range(5)]
        assert all(response.result().status_code == 200 for response in alive)
    statuses = Counter(response.status_code for response in answers)
    assert set(statuses) == {200, 429}, statuses
    for response in answers:
        if response.status_code == 429:
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["code"] == "overloaded"
    assert server.embed(["a dog"]).status_code == 200
    assert server.metric("mmembed_http_requests_total") >= before + 96
    assert server.metric("mmembed_queue_cost") == 0


def test_connections_that_say_nothing_hold_nobody_up(server: Served) -> None:
    with ExitStack() as stack:
        for n in range(200):
            slow = stack.enter_context(socket.create_connection(server.address(), timeout=WAIT))
            slow.sendall([b"POST /v1/embeddings HT", b"G", b""][n % 3])
        for _ in range(20):
            assert httpx.get(f"{server.url}/health", timeout=WAIT).status_code == 200
        assert server.embed(["a dog"]).status_code == 200


def test_a_port_in_use_is_said_before_the_model_is_loaded(server: Served) -> None:
    port = str(server.address()[1])
    done = subprocess.run(
        [sys.executable, "-m", "mmembed", "serve", "--model", "nowhere", "--port", port],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: port {port} is in use")


def send(server: Served, body: bytes, *, whole: bool = True) -> socket.socket:
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    connection = socket.create_connection(server.address(), timeout=WAIT)
    connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n")
    connection.sendall(body if whole else body[:-1])
    return connection


def status(connection: socket.socket) -> int:
    answer = b""
    while piece := connection.recv(1 << 20):  # until the server closes it
        answer += piece
    return int(answer.split()[1])


def test_clients_that_leave_are_no_errors(server: Served) -> None:
    body = json.dumps({"input": [f"{n} " + "of the " * 100 for n in range(50)]}).encode()
    reset = struct.pack("ii", 1, 0)
    for n in range(24):
        with send(server, body, whole=bool(n % 4)) as connection:
            if n % 3 == 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            time.sleep(0.005 * n)
    while server.metric("mmembed_queue_requests") or server.metric("mmembed_http_buffered_bytes"):
        assert server.process.poll() is None
    assert server.metric("mmembed_cancelled_total") > 0
    assert server.embed(["a dog"]).status_code == 200
    assert not [line for line in server.said if "Traceback" in line or line.startswith("ERROR")]


def test_sigterm_answers_what_was_accepted(server: Served) -> None:
    """The last test on this server."""
    body = json.dumps({"input": ["a text " + "of the " * 40, *map(str, range(9))]}).encode()
    answered = server.metric('mmembed_http_requests_total{route="/v1/embeddings"')
    with ExitStack() as stack:
        clients = [stack.enter_context(send(server, body)) for _ in range(32)]
        late = stack.enter_context(send(server, body, whole=False))
        while (
            server.metric("mmembed_queue_requests")
            + server.metric('mmembed_http_requests_total{route="/v1/embeddings"')
            < answered + 32
        ):
            assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        refused_by = time.monotonic() + WAIT
        while not is_refused(server):
            assert time.monotonic() < refused_by
        late.sendall(body[-1:])  # its head was here
        assert Counter(map(status, [*clients, late])) == {200: 33}
    assert server.end() == 0
    assert not [line for line in server.said if "Traceback" in line or line.startswith("ERROR")]


def is_refused(server: Served) -> bool:
    try:
        socket.create_connection(server.address(), timeout=WAIT).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow  # a server of its own
def test_a_second_ctrl_c_ends_it_at_once(tiny_checkpoint: Path) -> None:
    with served(tiny_checkpoint) as server, ThreadPoolExecutor(1) as threads:
        items = [f"number {n} " + "of the " * 200 for n in range(2000)]
        answer = threads.submit(server.embed, items)
        while server.metric("mmembed_queue_requests") == 0:
            assert not answer.done()
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 130
        try:
            assert answer.result().json()["error"]["code"] == "not_ready"
        except httpx.TransportError:
            pass  # the process was faster
