"""Debian's nginx, haproxy and squid, each as a process with a configuration and a folder of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support import PATIENCE, free_port, missing


class Daemon:
    """A server in the foreground, for the time of a block.

    Args:
        program: The name of its program. The test is skipped where that is missing.
        folder: An empty folder.
        arguments: The arguments before the name of the configuration's file.
        configuration: The configuration; ``{folder}`` and ``{port}`` are filled in.
        reload_signal: The signal that makes it read its configuration again.
    """

    def __init__(
        self, program: str, folder: Path, arguments: Sequence[str], configuration: str, reload_signal: signal.Signals
    ) -> None:
        path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        if path is None:
            missing(program)
        self.port = free_port()
        self._folder = folder
        self._reload_signal = reload_signal
        file = folder / f"{program}.conf"
        file.write_text(configuration.replace("{folder}", str(folder)).replace("{port}", str(self.port)))
        self._command = [path, *arguments, str(file)]

    async def __aenter__(self) -> Self:
        self._start()
        async with asyncio.timeout(PATIENCE):
            while not await self._accepts():
                assert self._process.poll() is None, (self._folder / "output").read_text()
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.kill)

    def _start(self) -> None:
        with (self._folder / "output").open("ab") as output:
            # In a process group of their own, so that all its processes can be ended.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def kill(self) -> None:
        """End the server and all its processes at once."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def reload(self) -> None:
        """Let it read its configuration again; its old workers end when they have answered."""
        self._process.send_signal(self._reload_signal)

    def kill_workers(self) -> None:
        """Kill the worker processes with all their connections; the master starts new ones."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        for child in children.split():
            # One may have ended meanwhile.
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                continue

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"


def nginx(folder: Path, upstreams: str, *, settings: str = "", location: str = "", servers: str = "") -> Daemon:
    """A reverse proxy.

    Args:
        folder: An empty folder.
        upstreams: Where requests go, as nginx's ``upstream`` block has it.
        settings: More for the ``http`` block.
        location: More for the ``location`` block.
        servers: More ``server`` blocks.
    """
    configuration = f"""
        {"user root;" if os.geteuid() == 0 else ""}
        worker_processes 2;
        pid {{folder}}/nginx.pid;
        events {{ worker_connections 1024; }}
        http {{
            access_log off;
            client_body_temp_path {{folder}}/body;
            proxy_temp_path {{folder}}/proxy;
            fastcgi_temp_path {{folder}}/fastcgi;
            uwsgi_temp_path {{folder}}/uwsgi;
            scgi_temp_path {{folder}}/scgi;
            {settings}
            upstream origin {{ {upstreams} keepalive 32; }}
            {servers}
            server {{
                listen 127.0.0.1:{{port}} backlog=512;
                location / {{
                    {location}
                    proxy_pass http://origin;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                }}
            }}
        }}
    """
    arguments = ["-p", str(folder), "-e", "stderr", "-g", "daemon off;", "-c"]
    return Daemon("nginx", folder, arguments, configuration, signal.SIGHUP)


def haproxy(folder: Path, upstream: int) -> Daemon:
    """A reverse proxy.

    Args:
        folder: An empty folder.
        upstream: The port that requests go to.
    """
    configuration = f"""
global
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-keep-alive 1s
frontend clients
    bind 127.0.0.1:{{port}}
    default_backend origin
backend origin
    server one 127.0.0.1:{upstream}
"""
    return Daemon("haproxy", folder, ["-W", "-db", "-f"], configuration, signal.SIGUSR2)


def squid(folder: Path) -> Daemon:
    """A forward proxy."""
    configuration = """
http_port 127.0.0.1:{port}
http_access allow localhost
cache deny all
cache_mem 1 MB
access_log none
cache_log /dev/null
netdb_filename none
pid_filename none
coredump_dir /tmp
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname squid.example
workers 1
"""
    return Daemon("squid", folder, ["-N", "-f"], configuration, signal.SIGHUP)
