"""``python -m lora_graph`` is the command ``lora-graph``."""

from lora_graph.cli import main

main(prog_name="lora-graph")
