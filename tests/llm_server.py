"""A language model's server on loopback that is stricter than real ones and fails on command.

Every request is checked against the published types of the API (the SDK's own), and against the rules for strict
schemas; what does not fit is answered 400 with the reason, as the real service does.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from PIL import Image
from pydantic import TypeAdapter, ValidationError

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""The model: a request's body -> the object it answers with."""
_TYPES = TypeAdapter(CompletionCreateParamsNonStreaming)
_FIELDS = CompletionCreateParamsNonStreaming.__annotations__


class Server:
    """The server while it runs.

    Attributes:
        requests: bodies of all requests, in the order they came.
        refused: why requests were answered 400.
        pictures: sizes of the pictures seen, by request.
    """

    def __init__(
        self, answer: Answer, *, script: Sequence[str] = (), formats: Sequence[str] = ("json_schema",)
    ) -> None:
        """Start it.

        Args:
            answer: what the model says.
            script: what happens to the first requests, one word each; later ones are answered.
            formats: kinds of `response_format` it knows; another is a 400.
        """
        self.requests: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.pictures: list[tuple[int, int]] = []
        self._answer, self._script, self._formats = answer, list(script), tuple(formats)
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._serve(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
                del format, args

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(body)
            what = self._script.pop(0) if self._script else "answer"
        try:
            self._check(handler, body)
        except (ValueError, ValidationError) as error:
            self.refused.append(str(error))
            _reply(handler, 400, {"error": {"message": str(error), "type": "invalid_request_error"}})
            return
        getattr(self, f"_do_{what}")(handler, body)

    def _check(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if handler.path != "/v1/chat/completions":
            raise ValueError(f"no such path {handler.path}")
        if not handler.headers.get("Authorization", "").startswith("Bearer "):
            raise ValueError("no bearer token")
        if unknown := set(body) - set(_FIELDS):
            raise ValueError(f"unknown fields {sorted(unknown)}")
        _TYPES.validate_python(body)
        form = body.get("response_format", {"type": "text"})
        if form["type"] not in (*self._formats, "text"):
            raise ValueError(f"response_format {form['type']!r} is not supported")
        if form["type"] == "json_schema":
            assert form["json_schema"]["name"].replace("_", "").replace("-", "").isalnum()
            if form["json_schema"]["strict"]:
                _check_strict(form["json_schema"]["schema"])
        for message in body["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "image_url":
                    kind, _, data = part["image_url"]["url"].partition(";base64,")
                    picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
                    if kind != "data:image/jpeg" or picture.format != "JPEG":
                        raise ValueError(f"a picture that is not a JPEG: {kind}, {picture.format}")
                    self.pictures.append(picture.size)

    def _do_answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        _reply(handler, 200, completion(json.dumps(self._answer(body))))

    def _do_fenced(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        _reply(handler, 200, completion(f"Sure!\n```json\n{json.dumps(self._answer(body))}\n```\nAnything else?"))

    def _do_429(self, handler: BaseHTTPRequestHandler, _: object) -> None:
        error = {"error": {"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
        _reply(handler, 429, error, {"Retry-After": "7"})

    def _do_quota(self, handler: BaseHTTPRequestHandler, _: object) -> None:
        error = {"error": {"message": "pay first", "type": "insufficient_quota", "code": "insufficient_quota"}}
        _reply(handler, 429, error)

    def _do_401(self, handler: BaseHTTPRequestHandler, _: object) -> None:
        _reply(handler, 401, {"error": {"message": "wrong key", "type": "invalid_request_error"}})

    def _do_500(self, handler: BaseHTTPRequestHandler, _: object) -> None:
        _reply(handler, 500, {"error": {"message": "out of memory", "type": "server_error"}})

    def _do_truncated(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        _reply(handler, 200, completion(json.dumps(self._answer(body))[:10], finish="length"))

    def _do_refusal(self, handler: BaseHTTPRequestHandler, _: object) -> None:
        reply = completion(None)
        reply["choices"][0]["message"]["refusal"] = "I do not watch robots."
        _reply(handler, 200, reply)

    def _do_broken_json(self, handler: BaseHTTPRequestHandler, _: object) -> None:
        _reply(handler, 200, completion('{"events": {"grasped": "yes", '))

    def _do_wrong_enum(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        text = json.dumps(self._answer(body))
        for word in ("yes", "no", "unsure"):
            text = text.replace(f'"{word}"', '"perhaps"')
        _reply(handler, 200, completion(text))

    def _do_not_a_completion(self, handler: BaseHTTPRequestHandler, _: object) -> None:
        data = b"<html>It works!</html>"
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _do_slow(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        time.sleep(1.5)
        self._do_answer(handler, body)

    def _do_dropped(self, handler: BaseHTTPRequestHandler, _: object) -> None:
        # A reset in the middle of the headers, as from a crashed server.
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True


def completion(text: str | None, *, finish: str = "stop") -> dict[str, Any]:
    """Return a completion's body; a token is four letters here."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "watcher",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, "refusal": None}}
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }


def _check_strict(schema: Mapping[str, Any]) -> None:
    """Check the published rules for strict schemas: all fields required, none beyond them, no defaults."""
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            raise ValueError(f"additionalProperties must be false in {schema.get('title')}")
        if set(schema.get("required", ())) != set(schema["properties"]):
            raise ValueError(f"all properties must be required in {schema.get('title')}")
    if "default" in schema:
        raise ValueError(f"default is not permitted in {schema.get('title')}")
    for child in (*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()):
        _check_strict(child)
    if "items" in schema:
        _check_strict(schema["items"])


def _reply(
    handler: BaseHTTPRequestHandler, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    try:
        handler.wfile.write(data)
    except (BrokenPipeError, ConnectionResetError):
        handler.close_connection = True
