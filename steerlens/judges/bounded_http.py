"""Requests that end: a deadline in all, a cap on what is read, and no redirects."""

import importlib
import queue
import threading
import zlib
from collections.abc import Iterator
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

MOST_BYTES = 16 * 2**20
"""Of one reply's body, before and after decompression."""


class UnusableReplyError(RuntimeError):
    """What the service sent is not read: too large, a redirect, or packed in a way that is not unpacked here.

    `kind`: "too large", "redirect" or "encoding".
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def bounded(client: Any, seconds: int | float) -> Any:
    """A client of openai that sends through the HTTP client of the one given, which is left as it is.

    Args:
        seconds: a request's deadline, from its start to the last byte of its reply.

    A request raises TimeoutError after its deadline, and UnusableReplyError.
    """
    inner = client._client
    library = _library(inner)

    class Transport(library.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            request.headers["Accept-Encoding"] = "identity"
            status, headers, content = _within(seconds, inner, request)
            return library.Response(status, headers=headers, content=content, request=request)

    given = {name: getattr(inner, name) for name in ("headers", "cookies", "params")}
    outer = library.Client(transport=Transport(), timeout=seconds, follow_redirects=False, trust_env=False, **given)
    return client.with_options(max_retries=0, http_client=outer)


def _library(inner: Any) -> Any:
    """The library that an HTTP client is of: httpx, or httpx2, which newer versions of openai use."""
    names = (kind.__module__.partition(".")[0] for kind in type(inner).__mro__)
    return importlib.import_module(next(name for name in names if name.startswith("httpx")))


Raw = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers and body of a reply."""


def _within(seconds: int | float, inner: Any, request: Any) -> Raw:
    """The reply, if it is whole before the deadline.

    In a thread of its own, since a client's timeout is of each read: a service that sends a byte now and then never meets it.
    """
    deadline = monotonic() + seconds
    done: queue.SimpleQueue[Raw | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put(_sent(inner, request, deadline))
        except BaseException as error:
            done.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        result = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("the request timed out") from None
    if isinstance(result, BaseException):
        raise result
    return result


def _sent(inner: Any, request: Any, deadline: int | float) -> Raw:
    response = inner.send(request, stream=True, follow_redirects=False)
    try:
        _check_no_redirect(request, response)
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        content = b"".join(_capped(_unpacked(_until(response.iter_raw(), deadline), encoding)))
    finally:
        response.close()
    left_out = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in left_out]
    return response.status_code, headers, content


def _check_no_redirect(request: Any, response: Any) -> None:
    if 300 <= response.status_code < 400:
        to = urlsplit(response.headers.get("location", "")).hostname
        raise UnusableReplyError(
            "redirect",
            f"{request.url.host} answers with status {response.status_code} and redirects to {to or request.url.host}, which "
            "is not followed: give the final address as base_url if you trust it",
        )


def _until(chunks: Iterator[bytes], deadline: int | float) -> Iterator[bytes]:
    for chunk in _capped(chunks):
        if monotonic() > deadline:
            raise TimeoutError("the request timed out")
        yield chunk


def _capped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MOST_BYTES:
            raise UnusableReplyError("too large", f"the service's reply has more than {MOST_BYTES} bytes")
        yield chunk


def _unpacked(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The body unpacked, in pieces of bounded size."""
    if encoding in ("", "identity"):
        yield from chunks
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnusableReplyError("encoding", f"the service's reply is packed as {encoding[:20]!r}, which was not asked for")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, as its head says
    for chunk in chunks:
        rest = chunk
        while rest:
            try:
                piece = unpack.decompress(rest, 2**16)
            except zlib.error as error:
                raise UnusableReplyError("encoding", f"the service's reply cannot be unpacked: {error}") from None
            yield piece
            rest = b"" if unpack.eof else unpack.unconsumed_tail
