"""What the package raises beside Python's own exceptions. Imports no torch."""

from __future__ import annotations

from ray.exceptions import ObjectLostError


class ModelLostError(ObjectLostError):
    """The weights of a published model are gone with the process or the node that had them.

    The message says which model, what is known of the reason, and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__("", None, "")
        self.message = message

    def __str__(self) -> str:
        return self.message
