"""The sections by name, in the order in which they run."""

from ..session import Section
from . import end_to_end, in_memory, inference, loader, loop, losses, memory, methods, published, start, sweep

SECTIONS: dict[str, Section] = {
    "in_memory": in_memory.SECTION,
    "methods": methods.SECTION,
    "published": published.SECTION,
    "losses": losses.SECTION,
    "inference": inference.SECTION,
    "loader": loader.SECTION,
    "loop": loop.SECTION,
    "end_to_end": end_to_end.SECTION,
    "start": start.SECTION,
    "memory": memory.SECTION,
    "sweep": sweep.SECTION,
}
ON_GPU = ("in_memory", "end_to_end", "methods", "losses")
"""Those that a plain command runs on a GPU: the others measure processes of the host."""


def chosen(device: str, against: bool) -> list[str]:
    """The sections of a command that names none."""
    if device == "cuda":
        return [*ON_GPU, *(["published"] if against else [])]
    return [name for name in SECTIONS if name != "in_memory" and (against or name != "published")]
