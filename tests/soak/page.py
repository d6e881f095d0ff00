"""A browser tab as the server sees it: a web socket and the requests of a page that loads."""

from __future__ import annotations

import base64
import os
import socket
import threading

from comfy_server import ComfyServer


class Page:
    """Keeps a web socket open and reads whatever comes.

    Args:
        server: The running server.
        name: The client's id, which a page keeps when it is reloaded.
    """

    def __init__(self, server: ComfyServer, name: str) -> None:
        self.server, self.name, self.received_bytes = server, name, 0
        self.open()

    def open(self) -> None:
        """Connect, and ask for what a page asks for when it loads."""
        self._socket = socket.create_connection(("127.0.0.1", self.server.port))
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /ws?clientId={self.name} HTTP/1.1\r\nHost: 127.0.0.1:{self.server.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        if b" 101 " not in self._socket.recv(4096).split(b"\r\n")[0]:
            raise ConnectionError("ComfyUI did not open a web socket")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        for asked in ("object_info", "queue", "system_stats"):
            self.server.get(asked)

    def _read(self) -> None:
        try:
            while data := self._socket.recv(1 << 16):
                self.received_bytes += len(data)
        except OSError:  # closed from this side
            pass

    def close(self) -> None:
        """Go away without a word, as a tab does that is reloaded."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._reader.join(10)

    def reload(self) -> None:
        """Close and open again under the same name."""
        self.close()
        self.open()
