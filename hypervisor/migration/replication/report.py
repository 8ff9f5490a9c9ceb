"""What replication does and costs, while it does. Times are milliseconds, sizes bytes."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class ReplicationReport(Struct, rename="kebab"):
    status: Literal["none", "synchronizing", "protected", "alone", "ended", "dismissed", "left"] = "none"
    """``alone``: the backup was lost. ``ended``: the guest has. ``left``: the backup has the guest."""
    reason: str = ""
    """Why it is so."""
    epochs: int = 0
    """Epochs that the backup held, or holds."""
    pages: int = 0
    transferred: int = 0
    """Bytes of epochs; not those of the synchronization before."""
    pause: float = 0.0
    """The last time that the guest stood still for an epoch."""
    most_pause: float = 0.0
    total_pause: float = 0.0
    latency: float = 0.0
    """From the last pause on until the backup had the epoch: so long its output was held at least."""
    total_latency: float = 0.0

    def note(self, pages: int, length: int, pause: float, latency: float) -> None:
        """One more epoch; times in seconds."""
        self.epochs += 1
        self.pages += pages
        self.transferred += length
        self.pause, self.latency = round(1000 * pause, 3), round(1000 * latency, 3)
        self.most_pause = max(self.most_pause, self.pause)
        self.total_pause = round(self.total_pause + self.pause, 3)
        self.total_latency = round(self.total_latency + self.latency, 3)

    def summary(self) -> str:
        """In a line."""
        number = max(self.epochs, 1)
        return (
            f"{self.epochs:,} epochs, {self.transferred / number:,.0f} bytes, "
            f"{self.total_pause / number:.2f} ms pause and {self.total_latency / number:.2f} ms latency each"
        )
