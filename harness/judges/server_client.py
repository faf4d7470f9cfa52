"""The HTTP client of judges behind a server: it follows no redirect, and reads no more of a reply than one may have.

The key goes to the address that the user named and nowhere else. A redirect to another one would take it there.
"""

from __future__ import annotations

from typing import Any

from openai import DefaultAsyncHttpxClient

from harness.judges.server_limits import MOST_ANSWER_BYTES, TooLong


def bounded_client(*, trust_env: bool) -> Any:
    """trust_env: whether proxies of the environment are used."""
    return _Bounded(trust_env=trust_env, follow_redirects=False, headers={"accept-encoding": "identity"})


class _Bounded(DefaultAsyncHttpxClient):
    async def send(self, request: Any, *, stream: bool = False, **more: Any) -> Any:
        response = await super().send(request, **{**more, "stream": True, "follow_redirects": False})
        if stream:  # no judge asks for it
            return response
        content = bytearray()
        try:
            # As it came: packed, a short reply unpacks to a long one, and it was asked for as it is
            async for part in response.aiter_raw():
                content += part
                if len(content) > MOST_ANSWER_BYTES:
                    raise TooLong
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_THE_WAY]
        return type(response)(response.status_code, headers=headers, content=bytes(content), request=request)


_OF_THE_WAY = frozenset({"content-encoding", "content-length", "transfer-encoding"})
