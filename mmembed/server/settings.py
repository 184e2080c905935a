"""Every limit of the server and what it may do, with defaults for one machine behind no proxy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from mmembed.config.validation import StrictModel
from mmembed.errors import ConfigError
from mmembed.inputs.media import MediaPolicy

__all__ = ["API_KEY_VARIABLE", "ServerSettings", "read_api_keys"]

API_KEY_VARIABLE = "MMEMBED_API_KEY"
_LEAST_KEY = 16
_MB = 1_000_000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerSettings(StrictModel):
    """What `GET /info` shows, but for the keys.

    Args:
        host, port: where the server listens. Another host than this machine's own needs
            `api_keys`, or `no_auth`. Port 0: any free one.
        api_keys: any of these opens every route; without one, only `/health` answers. Empty: the
            server is open to whoever reaches it.
        no_auth: said aloud that there is no key.
        max_body_bytes: of one request, counted while it arrives.
        max_buffered_bytes: of all bodies in memory; above, requests get 429.
        max_items: texts, images, ... of one request.
        max_media_items: those of them that hold media.
        max_item_tokens: of one item in the language model; longer texts are cut.
        max_text_chars: of one item.
        max_instruction_chars: of the instruction of an item, which is never cut and which a request
            may give once for all of its items.
        max_image_bytes, max_video_bytes, max_pdf_bytes: of one file, decoded from its base64.
        max_pixels: of one picture, from its header.
        max_frames: that a request may ask of one clip, or list, as a number or by `fps`.
        max_pages: of one PDF.
        max_json_depth, max_json_values: of a JSON body.
        max_header_bytes: of a request.
        max_connections: open at a time; further ones get 503.
        header_timeout_seconds, body_timeout_seconds: until all of it is here.
        idle_timeout_seconds: between two requests of a connection.
        request_timeout_seconds: from the body to the answer; then 504.
        max_queue_cost: tokens of both towers that may wait, estimated before media are opened.
            Above, and when the wait would take half of `request_timeout_seconds`, requests get
            429 and when to come back.
        batch_tokens: tokens of both towers that run together; None: what suits the device.
        grace_seconds: on SIGTERM, for what was accepted.
        allowed_hosts: exact hosts from which media are fetched; none: URLs are refused.
        allow_http: also plain http.
        model_names, reranker_names: under which requests may name the models, beside the name of
            the model's folder; the first is the one in answers.
        allow_url_strings: embed a text that is the address or the bytes of a medium as text;
            otherwise such a text is refused with a hint how to send the medium.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_keys: tuple[SecretStr, ...] = Field(default=(), exclude=True)
    no_auth: bool = False
    max_body_bytes: int = Field(default=32 * _MB, ge=1)
    max_buffered_bytes: int = Field(default=512 * _MB, ge=1)
    max_items: int = Field(default=2048, ge=1)
    max_media_items: int = Field(default=64, ge=1)
    max_item_tokens: int = Field(default=8192, ge=8)
    max_text_chars: int = Field(default=2_000_000, ge=1)
    max_instruction_chars: int = Field(default=20_000, ge=1)
    max_image_bytes: int = Field(default=20 * _MB, ge=1)
    max_video_bytes: int = Field(default=100 * _MB, ge=1)
    max_pdf_bytes: int = Field(default=50 * _MB, ge=1)
    max_pixels: int = Field(default=89_478_485, ge=1)
    max_frames: int = Field(default=64, ge=1)
    max_pages: int = Field(default=50, ge=1)
    max_json_depth: int = Field(default=20, ge=1)
    max_json_values: int = Field(default=500_000, ge=1)
    max_header_bytes: int = Field(default=16_384, ge=256)
    max_connections: int = Field(default=1000, ge=1)
    header_timeout_seconds: float = Field(default=15.0, gt=0)
    body_timeout_seconds: float = Field(default=30.0, gt=0)
    idle_timeout_seconds: int = Field(default=30, ge=1)
    request_timeout_seconds: float = Field(default=120.0, gt=0)
    max_queue_cost: int = Field(default=1 << 20, ge=1)
    batch_tokens: int | None = Field(default=None, ge=1)
    grace_seconds: float = Field(default=30.0, ge=0)
    allowed_hosts: tuple[str, ...] = ()
    allow_http: bool = False
    model_names: tuple[str, ...] = ()
    reranker_names: tuple[str, ...] = ()
    allow_url_strings: bool = False

    @model_validator(mode="after")
    def _safe(self) -> ServerSettings:
        if not self.is_local and not self.api_keys and not self.no_auth:
            raise ValueError(
                f"host {self.host!r} is reachable from other machines: set the key in the "
                f"environment variable {API_KEY_VARIABLE} or give --api-key-file, or say --no-auth"
            )
        if self.api_keys and self.no_auth:
            raise ValueError("there is a key, and no_auth says that there is none; drop one")
        for key in self.api_keys:
            value = key.get_secret_value()
            if len(value) < _LEAST_KEY or not value.isascii() or not value.isprintable():
                raise ValueError(
                    f"an API key has at least {_LEAST_KEY} printable ASCII characters; "
                    'make one with: python -c "import secrets; print(secrets.token_urlsafe())"'
                )
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.host in _LOOPBACK

    def media_policy(self) -> MediaPolicy:
        """For the embedder and the reranker: nothing from this machine's disk or network.

        `max_frames` goes in as what is refused: as what is cut it is a part of the fingerprint.
        """
        return MediaPolicy(
            allow_urls=bool(self.allowed_hosts),
            allowed_hosts=self.allowed_hosts,
            allow_http=self.allow_http,
            allowed_roots=(),
            max_bytes=max(self.max_image_bytes, self.max_video_bytes, self.max_pdf_bytes),
            max_fetch_bytes=max(self.max_image_bytes, self.max_video_bytes, self.max_pdf_bytes),
            max_pixels=self.max_pixels,
            max_frames_asked=self.max_frames,
            max_pages=self.max_pages,
        )


def read_api_keys(
    file: Path | None, environment: Mapping[str, str] | None = None
) -> tuple[SecretStr, ...]:
    """Keys from a file, one on a line (`#` starts a comment line), else from the environment.

    Never from the command line, which every user of the machine can read.

    Raises:
        ConfigError: the file holds none or cannot be read.
    """
    if file is None:
        key = (os.environ if environment is None else environment).get(API_KEY_VARIABLE, "")
        return (SecretStr(key.strip()),) if key.strip() else ()
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII text"
        raise ConfigError(f"--api-key-file {file.name}: {reason}") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise ConfigError(f"--api-key-file {file.name} holds no key; write one on a line")
    return tuple(map(SecretStr, found))
