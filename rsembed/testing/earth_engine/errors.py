"""What the server answers when it does not answer with a result."""

from __future__ import annotations


class EarthEngineError(Exception):
    """An error as the service answers one: ``status`` is the HTTP status, the text is what its caller reads."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class NotModelledError(EarthEngineError):
    """The service would answer this; the local server cannot, or not for certain."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"{message} [the local Earth Engine server does not model this; the real service would answer]"
        )
