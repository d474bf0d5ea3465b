"""The small family of exceptions. The ingress maps them to HTTP once; nothing else does."""

from __future__ import annotations


class SSDError(Exception):
    """Base of everything this project raises on purpose."""


class InvalidRequestError(SSDError):
    """The caller's mistake. `field` names the offending request field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field

    def __reduce__(self) -> tuple[type[InvalidRequestError], tuple[str, str]]:
        return type(self), (self.field, str(self).removeprefix(f"{self.field}: "))


class ConfigError(SSDError):
    """A configuration that cannot work, found before anything is started. The message names file, field and value."""


class CapacityError(SSDError):
    """The engine has no room for this session now. It may be tried again when others have ended."""


class EngineError(SSDError):
    """A model produced something that cannot be used (NaN logits, say). Ends the session it concerns and no other."""


class TextError(SSDError):
    """Token ids that a tokenizer cannot turn into text. Ends the session it concerns and no other; quotes no text."""
