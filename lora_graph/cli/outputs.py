"""What commands write beside what they print."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_graph.files import require_writable


def require_outputs(outputs: Mapping[str, Path | None], read: Sequence[Path | None]) -> None:
    """Raise, before there is anything to write, what writing ``outputs``, paths by option, would end in.

    OSError for a file that cannot be written; ValueError for one that is ``read`` or written twice: it would be lost.
    """
    taken = {os.path.realpath(path): "what is read" for path in read if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        real = os.path.realpath(path)
        if real in taken:
            raise ValueError(f"{option} would overwrite {taken[real]}: {path}")
        require_writable(path)
        taken[real] = f"what {option} writes"
