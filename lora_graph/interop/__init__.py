"""Adapter files of other libraries: PEFT directories, and the files of LyCORIS and kohya. No PyTorch, no pickle."""

from lora_graph.interop.lycoris import load_lycoris
from lora_graph.interop.peft import load_peft
from lora_graph.interop.report import ImportReport, ModuleReport

__all__ = ["ImportReport", "ModuleReport", "load_lycoris", "load_peft"]
