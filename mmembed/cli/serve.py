"""`mmembed serve`: a model behind HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mmembed.cli.console import Device, Model, Workers, say
from mmembed.config.validation import validate

__all__ = ["serve"]


def serve(
    model: Model,
    reranker: Annotated[
        str | None, typer.Option(help="A reranker's folder or hub id, for /v1/rerank.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Another address than this machine's own needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="Keys, one on a line; else the variable MMEMBED_API_KEY."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Open to whoever reaches the address.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Fetch media from this host; repeatable. Default: no URLs."),
    ] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Fetch media over plain http too.")
    ] = False,
    allow_url_strings: Annotated[
        bool,
        typer.Option("--allow-url-strings", help="Embed texts that are addresses of media."),
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A model name that requests may give; repeatable."),
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that run together; default: by device.")
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens and patches that may wait; above: 429."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of a request; default: 120.")
    ] = None,
    grace: Annotated[
        float | None, typer.Option(min=0, help="Seconds to finish after SIGTERM; default: 30.")
    ] = None,
    access_log: Annotated[
        bool, typer.Option(help="A line of JSON on standard error for each request.")
    ] = True,
    device: Device = None,
    num_workers: Workers = None,
) -> None:
    """Serve embeddings, and scores of a reranker, over HTTP.

    \b
    Routes: /v1/embeddings (OpenAI, vLLM messages, Jina), /v2/embed (Cohere),
    /v1/multimodalembeddings (Voyage), /v1/rerank; /info has every limit,
    /health, /ready and /metrics are for operators, /openapi.json lists all.
    SIGTERM or Ctrl-C: accepted requests are answered first.

    \b
    With a key every route but /health needs it, in the header
    `authorization: Bearer KEY`. Probes and Prometheus send it too; a probe
    without a key asks /health: the port opens when the model is loaded.

    \b
    Examples:
      mmembed serve --model run/model
      mmembed serve --model run/model --reranker run/reranker --port 9000
      MMEMBED_API_KEY=$(cat key) mmembed serve --model run/model --host 0.0.0.0
    """
    from mmembed.server.listening import take_port
    from mmembed.server.settings import ServerSettings, read_api_keys

    fields: dict[str, Any] = {
        "host": host,
        "port": port,
        "api_keys": read_api_keys(api_key_file) if api_key_file or not no_auth else (),
        "no_auth": no_auth,
        "allowed_hosts": tuple(allow_host or ()),
        "allow_http": allow_http,
        "allow_url_strings": allow_url_strings,
        "model_names": tuple(name or ()),
        "batch_tokens": batch_tokens,
        "max_queue_cost": max_queue,
        "request_timeout_seconds": timeout,
        "grace_seconds": grace,
    }
    given = {key: value for key, value in fields.items() if value is not None}
    settings = validate(ServerSettings, given, where="serve")
    taken = take_port(settings.host, settings.port)
    app = _app(model, reranker, settings, device, num_workers)

    from mmembed.server.running import run

    def ready(address: str) -> None:
        say(f"serving {model} at {address} (Ctrl-C ends it)\n\n{_example(address, settings)}\n")

    run(app, settings, taken=taken, on_ready=ready, access_log=access_log)


def _app(
    model: str, reranker: str | None, settings: Any, device: str | None, num_workers: int | None
) -> Any:
    """Both models decode media with the same processes."""
    from mmembed.encoder.embedder import Embedder
    from mmembed.encoder.reranker import Reranker
    from mmembed.server.app import create_app
    from mmembed.server.engine import EncodeEngine, RerankEngine

    say(f"loading {model}")
    embedder = Embedder.from_pretrained(
        model, device=device, num_workers=num_workers, media=settings.media_policy()
    )
    rerank = None
    if reranker is not None:
        say(f"loading {reranker}")
        scorer = Reranker.from_pretrained(reranker, device=device, media=embedder.processor.decoder)
        rerank = RerankEngine(scorer, settings)
    return create_app(EncodeEngine(embedder, settings), settings, rerank=rerank)


def _example(address: str, settings: Any) -> str:
    """A command to paste. It names the key's variable and never the key."""
    lines = [f"curl {address}/v1/embeddings -H 'content-type: application/json'"]
    if settings.api_keys:
        lines.append('  -H "authorization: Bearer $MMEMBED_API_KEY"')
    lines.append(f"  -d '{json.dumps({'input': ['a red bicycle']})}'")
    return " \\\n".join(lines)
