"""The studio for a browser: Gradio's queue for what takes the model, plain answers for all else, nothing from outside.

One call of the model runs at a time; who comes second is told their place. A tab that is closed gives its place up.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffwave_sde.demo import takeaway, uploads
from diffwave_sde.demo.jobs import Result, Step, Worker
from diffwave_sde.demo.start import Start
from diffwave_sde.demo.studio import MOST_STEPS, Settings, Studio
from diffwave_sde.kits import keys
from diffwave_sde.kits.source import Source
from diffwave_sde.samplers.base import Progress
from diffwave_sde.sounds.pictures import spectrogram

# Before Gradio is imported: it reads them then. It would otherwise tell its makers of every start.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio
from fastapi import Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = Path(__file__).with_name("page")
LOOPBACK = ("127.0.0.1", "localhost", "::1")

# The browser itself refuses whatever is not of this server.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"
)

SESSIONS = 64
"""Calls whose last result Gradio keeps, a tenth of a megabyte each: a page makes a session of each call."""

MOST_KIT_BYTES = 64 * 2**20
MOST_KEYS_BYTES = 2**16
ROWS, HOP, FLOOR = 48, 256, -90.0
"""Of the small spectrograms: frequencies, samples between columns, dB that is drawn darkest."""


class Server:
    """A page and what it asks, on one port.

    Args:
        studio: makes the sounds.
        start: the kit that a page begins with.
        subtype: of the WAV files of a kit.
        host: address to listen on; names other than the loopback's let anyone in who reaches it.
        port: TCP port; 0 for one that is free.
        password: what a browser asks its user for, with any name; none by default.
    """

    def __init__(
        self, studio: Studio, start: Start, subtype: str = "PCM_24", host: str = "127.0.0.1", port: int = 7860,
        password: str | None = None,
    ):  # fmt: skip
        self.studio, self.start_kit, self.subtype = studio, start, subtype
        self.host, self.port, self.password = host, port, password
        self.worker = Worker()
        self._pads = [
            {"label": label, "number": i, "sound": told(x, studio.model.rate)}
            for i, (label, x) in enumerate(zip(start.labels, start.sounds, strict=True))
        ]
        self.app = gradio.Server(title="diffwave-sde demo", docs_url=None, redoc_url=None, openapi_url=None)
        self._endpoints = {"generate": self.generate, "vary": self.vary, "inpaint": self.inpaint, "morph": self.morph}
        for name, function in self._endpoints.items():
            self.app.api(function, name=name, concurrency_limit=1, concurrency_id="model")
        self.app.get("/")(self._index)
        self.app.get("/demo/start")(self._start)
        self.app.post("/demo/upload")(self._upload)
        self.app.post("/demo/track")(self._track)
        self.app.post("/demo/keys")(self._keys)
        self.app.post("/demo/kit")(self._kit)
        self.app.mount("/page", StaticFiles(directory=PAGE))
        self.app.add_middleware(_Guard, password=password)
        if host in LOOPBACK:  # another site's page, whose name leads here, may not ask
            self.app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])

    def launch(self) -> str:
        """Listen; the address to open. It returns at once.

        Raises:
            OSError: if the port is taken, or there is no such address.
        """
        _, url, _ = self.app.launch(
            server_name=self.host, server_port=free_port(self.host, self.port), prevent_thread_lock=True,
            quiet=True, share=False, ssr_mode=False, enable_monitoring=False, run_history=False, show_error=True,
            max_file_size=uploads.MOST_BYTES, state_session_capacity=SESSIONS,
        )  # fmt: skip
        return url

    def wait(self) -> None:
        """Wait until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()

    def close(self) -> None:
        """Stop to listen, and end what runs."""
        self.app.get_blocks().close(verbose=False)
        self.worker.close()

    # What takes the model, in the queue. Gradio makes each an endpoint of these arguments.

    def generate(self, labels: list, numbers: list, settings: dict) -> dict:
        """New sounds: yields {done, total}, then {sounds}. See `Studio.new`."""
        if not 0 < len(labels) == len(numbers) <= 16:
            raise gradio.Error("ask for 1 to 16 sounds, each with its number", print_exception=False)
        yield from self._work(lambda p: self.studio.new(labels, numbers, self._settings(settings), p))

    def vary(self, sound: str, label: str, strength: float, number: int, settings: dict) -> dict:
        """A variation of a sound. See `Studio.vary`."""
        yield from self._work(
            lambda p: [self.studio.vary(self._sound(sound), label, strength, self._settings(settings), number, p)]
        )

    def inpaint(self, sound: str, label: str, begin: float, end: float, number: int, settings: dict) -> dict:
        """A sound with the region from `begin` to `end`, seconds, made anew. See `Studio.inpaint`."""
        yield from self._work(
            lambda p: [
                self.studio.inpaint(self._sound(sound), label, (begin, end), self._settings(settings), number, p)
            ]
        )

    def morph(self, first: str, second: str, label: str, share: float, settings: dict) -> dict:
        """What lies between two sounds. See `Studio.morph`."""
        yield from self._work(
            lambda p: [
                self.studio.morph(self._sound(first), self._sound(second), label, share, self._settings(settings), p)
            ]
        )

    def _work(self, work: Callable[[Progress], list[Tensor]]) -> Iterator[dict[str, Any]]:
        steps = self.worker.steps(work)
        try:
            for step in steps:
                if isinstance(step, Step):
                    yield {"done": step.done, "total": step.total}
                elif isinstance(step, Result):
                    yield {"sounds": [told(x, self.studio.model.rate) for x in step.value]}
        except (ValueError, OSError) as error:  # of a user's making
            raise gradio.Error(str(error), print_exception=False) from None
        finally:
            steps.close()

    def _settings(self, asked: dict[str, Any]) -> Settings:
        settings = _settings(asked)
        track = asked.get("track")
        return settings if track is None else replace(settings, track=self._sound(track))

    def _sound(self, text: str) -> Tensor:
        return samples_of(text, self.studio.model.length)

    # What does not: answered while the model works

    async def _index(self) -> Response:
        return FileResponse(PAGE / "index.html")

    def _start(self) -> Response:
        """All that the page needs to know, and its first kit."""
        studio, kit = self.studio, self.start_kit
        guidance = studio.model.module.guided()
        functions = self.app.get_blocks().fns
        return JSONResponse(
            {
                "endpoints": {one.api_name: i for i, one in functions.items() if one.api_name in self._endpoints},
                "model": Source(studio.model).name,
                "rate": studio.model.rate,
                "length": studio.model.length,
                "labels": studio.labels,
                "samplers": studio.offered,
                "steps": getattr(studio.default, "steps", None),
                "most_steps": MOST_STEPS,
                "hears": studio.model.hears,
                "fixed_steps": bool(studio.model.taught),
                "guidance": guidance.weight if guidance else 1.0,
                "seed": kit.settings.seed,
                "pads": self._pads,
            }
        )

    async def _upload(self, request: Request, name: str = "file") -> Response:
        data = await _body(request, uploads.MOST_BYTES)
        if data is None:
            return _refused(uploads.too_large(name[:80]), 413)
        model = self.studio.model
        try:
            x = await run_in_threadpool(uploads.read, data, name, model.length, model.rate, model.hears)
        except ValueError as error:
            return _refused(str(error))
        return JSONResponse(told(x, model.rate))

    async def _track(self, request: Request, name: str = "file", begin: float = 0.0) -> Response:
        """The window of a track that parts are to go with, from `begin`, s, on."""
        data = await _body(request, uploads.MOST_BYTES)
        if data is None:
            return _refused(uploads.too_large(name[:80]), 413)
        model = self.studio.model
        try:
            model.check_hears(name[:80])
            x = await run_in_threadpool(uploads.read_track, data, name, model.length, model.rate, begin)
        except ValueError as error:
            return _refused(str(error))
        return JSONResponse(told(x, model.rate))

    async def _keys(self, request: Request) -> Response:
        """What each pad would be in a kit: its part, such as closed hat, and its choke group, or null."""
        data = await _body(request, MOST_KEYS_BYTES)
        try:
            found = keys.assign(_hits(data or b""))
        except ValueError as error:
            return _refused(str(error))
        return JSONResponse([{"part": key.part, "choke": key.choke} for key in found])

    async def _kit(self, request: Request) -> Response:
        data = await _body(request, MOST_KIT_BYTES)
        if data is None:
            return _refused("the kit is larger than this server takes", 413)

        def make() -> bytes:
            asked = _Kit.parse(data, self.studio.model.length)
            source = Source(self.studio.model)
            return takeaway.kit_zip(
                asked.pads, self.studio.model.rate, asked.name, asked.rate, self.subtype, source.told_licence(),
                source.name,
            )  # fmt: skip

        try:
            packed = await run_in_threadpool(make)
        except ValueError as error:
            return _refused(str(error))
        return Response(packed, media_type="application/zip")


def _hits(data: bytes) -> list[keys.Hit]:
    try:
        return [
            keys.Hit(str(pad["label"]), float(pad["decay"]), float(pad["brightness"]))
            for pad in json.loads(data)["pads"][:16]
        ]
    except (KeyError, TypeError, ValueError):
        raise ValueError("pads are JSON of label, decay in s and brightness in Hz") from None


class _Guard:
    """Lets in who knows the password, and tells the browser what it may load.

    Not Starlette's BaseHTTPMiddleware, behind which a stream does not see that its tab is closed.
    """

    def __init__(self, app: ASGIApp, password: str | None):
        self.app, self.password = app, password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("authorization", "")
        # Gradio asks its own server for that path once, with no password, to begin.
        own = scope["path"] == "/gradio_api/startup-events"
        if self.password is not None and not own and not _knows(given, self.password):
            refusal = PlainTextResponse(
                "This page asks for a password; any name will do.", 401, {"WWW-Authenticate": 'Basic realm="demo"'}
            )
            return await refusal(scope, receive, send)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-cache"
            await send(message)

        return await self.app(scope, receive, told)


@dataclass(frozen=True)
class _Kit:
    """What a page asks to take away."""

    name: str
    rate: int
    pads: list[takeaway.Pad]

    @staticmethod
    def parse(data: bytes, length: int) -> _Kit:
        try:
            asked = json.loads(data)
            pads = [
                takeaway.Pad(str(pad["label"]), samples_of(pad["samples"], length), str(pad.get("about", "")))
                for pad in asked["pads"]
            ]
            return _Kit(str(asked.get("name", "kit")), int(asked["rate"]), pads)
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
            raise ValueError("a kit is JSON of name, rate, and pads of label and samples") from None


def told(x: Tensor, rate: int) -> dict[str, Any]:
    """A sound (T,) for the page: float32 samples, bit for bit, and a spectrogram, FLOOR to 0 dB as 0 to 255.

    `decay`, in s, and `brightness`, in Hz, are what its part of a kit follows from.
    """
    x = x.detach().to("cpu", torch.float32).contiguous()
    levels = spectrogram(x, rate, ROWS, HOP)
    decay, brightness = takeaway.measures(x, rate)
    shades = ((levels - FLOOR) / -FLOOR).clamp(0, 1).mul(255).to(torch.uint8)
    return {
        "samples": _base64(x.numpy().tobytes()),
        "rate": rate,
        "decay": decay,
        "brightness": brightness,
        "spectrogram": {"rows": ROWS, "columns": shades.shape[-1], "shades": _base64(shades.numpy().tobytes())},
    }


def samples_of(text: str, length: int) -> Tensor:
    """The sound (T,) of samples as `told` writes them.

    Raises:
        ValueError: if it is none of `length` finite samples.
    """
    try:
        data = base64.b64decode(text, validate=True)
        x = torch.frombuffer(bytearray(data), dtype=torch.float32) if data else torch.empty(0)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError("a sound is float32 samples in base64") from None
    if len(x) != length or not bool(x.isfinite().all()):
        raise ValueError(f"a sound here is {length} finite samples, not {len(x)}")
    return x


def _settings(asked: dict[str, Any]) -> Settings:
    """Settings as a page says them.

    Raises:
        ValueError: if one is of another type, or out of its range.
    """
    try:
        sampler, steps, guidance = (asked.get(name) for name in ("sampler", "steps", "guidance"))
        settings = Settings(
            None if sampler is None else str(sampler),
            None if steps is None else int(steps),
            None if guidance is None else float(guidance),
            int(asked.get("seed", 0)),
        )
    except (TypeError, ValueError, AttributeError):
        raise ValueError("settings are a sampler's name, and numbers: steps, guidance, seed") from None
    if not 0 <= settings.seed < 2**53:
        raise ValueError(f"seed {settings.seed}: choose 0 to 2^53")
    return settings


async def _body(request: Request, most: int) -> bytes | None:
    """What was sent; None if it is more than `most` bytes, of which no more is read."""
    data = bytearray()
    if int(request.headers.get("content-length") or 0) > most:
        return None
    async for part in request.stream():
        data += part
        if len(data) > most:
            return None
    return bytes(data)


def _refused(text: str, status: int = 422) -> Response:
    return JSONResponse({"error": text}, status)


def _knows(header: str, password: str) -> bool:
    """Whether a Basic authorization (RFC 7617) has the password."""
    kind, _, code = header.partition(" ")
    try:
        given = base64.b64decode(code).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return kind.lower() == "basic" and secrets.compare_digest(given, password.encode())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def free_port(host: str, port: int) -> int:
    """The port, if it is free; of 0, one that is.

    Raises:
        OSError: if it is taken, or there is no such address here.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: what just ended is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"--port {port}: cannot listen there on {host} ({error.strerror or error}); choose another --port, or "
                "0 for a free one"
            ) from None
        return probe.getsockname()[1]
