"""Adapters: small trainable changes to frozen layers. One family, one file."""

from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.adapters.adapter import FAMILIES, Adapter
from lora_graph.adapters.attach import adapt
from lora_graph.adapters.convolution import LoRAConvolution
from lora_graph.adapters.dora import DoRAAdapter
from lora_graph.adapters.dylora import DyLoRAAdapter
from lora_graph.adapters.kronecker import KroneckerForm
from lora_graph.adapters.lokr import LoKrAdapter
from lora_graph.adapters.lora import StandardLoRAAdapter
from lora_graph.adapters.lora_drop import LoRADropAdapter
from lora_graph.adapters.lora_layer import LoRALayer
from lora_graph.adapters.site import Site
from lora_graph.adapters.targets import Target
from lora_graph.adapters.tucker import TuckerConvolution

__all__ = [
    "FAMILIES",
    "AdaptedModel",
    "Adapter",
    "DoRAAdapter",
    "DyLoRAAdapter",
    "KroneckerForm",
    "LoKrAdapter",
    "LoRAConvolution",
    "LoRADropAdapter",
    "LoRALayer",
    "Site",
    "StandardLoRAAdapter",
    "Target",
    "TuckerConvolution",
    "adapt",
]
