"""Writing the adapters of a run as PEFT saves them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_pretrained(run: Path, folder: Path) -> list[Path]:
    """Write ``folder`` for PEFT, with a folder in it for each adapter where ``run`` has several; what was written.

    All of it or, after an error, nothing. ValueError for what is no run and for what PEFT has no form for,
    FileExistsError where there is something at ``folder``.
    """
    from lora_graph.adapters import runs

    if not run.is_dir():
        raise ValueError(f"{run}: --form peft takes the folder of a run, whose adapters are still apart from the model")
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; choose another folder, or delete it")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"cannot write {str(folder)!r}: there is no folder {str(folder.parent)!r}")
    model = runs.load(run)
    names = [""] if len(model.adapters) == 1 else list(model.adapters)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".peft-") as temporary:
        whole = Path(temporary, "whole")
        for place, name in zip(names, model.adapters, strict=True):
            model.save_pretrained(whole / place, name)
        os.rename(whole, folder)
    return [folder / place for place in names]
