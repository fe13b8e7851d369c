"""The page on a port of this machine, within its limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from melfusion.errors import ConfigError

# A browser that shows the page sends nothing to anyone else
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' blob: data:; "
    "form-action 'self'; frame-ancestors 'self'; base-uri 'self'; object-src 'none'"
)

SWITCHES = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def accounts(file: str | None) -> list[tuple[str, str]] | None:
    """Lines NAME:PASSWORD of a file; ConfigError where it holds none."""
    if file is None:
        return None
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"auth={file}: there is no such file; write one line NAME:PASSWORD for each visitor.")
    pairs = [line.split(":", 1) for line in path.read_text().splitlines() if line.strip()]
    if not pairs or any(len(pair) < 2 or not all(pair) for pair in pairs):
        raise ConfigError(f"auth={file}: each line must read NAME:PASSWORD.")
    return [(name, password) for name, password in pairs]


class Policy:
    """Adds the policy to every answer (ASGI middleware)."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = ((b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer"))
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await self.app(scope, receive, with_policy)


# of gradio's launch: nothing is shared, counted or offered beside the page
CLOSED: dict[str, Any] = {
    "share": False,
    "quiet": True,
    "show_error": True,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
}


def serve(
    actions: Any, host: str, port: int | None, queue: int, upload_mb: int, auth: list[tuple[str, str]] | None, wait: bool = True
) -> Any:
    """Show the page; returns it, with `wait` when it is closed.

    Args:
        port: None: a free one.  queue: visitors that may wait.  upload_mb: largest file.  auth: who may come in; None: everybody.
    ConfigError where the port is taken.
    """
    os.environ.update(SWITCHES)  # before gradio is imported
    import gradio as gr
    from starlette.middleware import Middleware

    from melfusion.app.gradio_private import read_no_address
    from melfusion.app.page import CSS, Page

    read_no_address()
    page = Page(actions)
    page.blocks.queue(max_size=queue, default_concurrency_limit=4, api_open=False)
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    try:
        page.blocks.launch(
            **CLOSED,
            server_name=host,
            server_port=port,
            auth=auth,
            max_file_size=f"{upload_mb}mb",
            prevent_thread_lock=not wait,
            app_kwargs={"middleware": [Middleware(Policy)], "docs_url": None, "redoc_url": None},
            theme=gr.themes.Soft(font=fonts[0], font_mono=fonts[1]),
            css=CSS,
        )
    except OSError as error:
        raise ConfigError(f"port={port} of {host} cannot be used ({error}): give another port=….") from None
    return page
