"""Adapters of a model in files: our own, which hold one adapter, and folders for PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_graph import checks
from lora_graph.adapters.adapter import FAMILIES, Adapter
from lora_graph.adapters.files import (
    BASE,
    AdapterConfig,
    check_tensors,
    fingerprint,
    read_adapter,
    write_adapter,
)
from lora_graph.adapters.pretrained import Naming, write_pretrained
from lora_graph.adapters.targets import targets
from lora_graph.errors import LoadError
from lora_graph.ir.types import Array
from lora_graph.layers.layer import Layer

DEFAULT = "default"
"""What the first adapter of a model is called."""


class Stored:
    """What an adapted model writes and reads; see :class:`~lora_graph.adapters.adapted.AdaptedModel`."""

    _base: Layer
    _adapters: dict[str, Adapter]
    _options: dict[str, dict[str, Any]]
    _originals: dict[str, Array] | None
    _replaced: set[str]
    module_names: dict[str, str]

    def _check_free(self, name: str) -> None:
        """An error where an adapter cannot be added under this name."""
        raise NotImplementedError

    def _register(self, name: str, adapter: Adapter, options: Mapping[str, Any]) -> None:
        """Take the adapter in."""
        raise NotImplementedError

    def replace_base(self, arrays: Mapping[str, Array], *, trainable: bool) -> None:
        """Give parameters of the base other values."""
        raise NotImplementedError

    def save_adapter(self, path: str | Path, name: str = DEFAULT) -> None:
        """Write an adapter to a safetensors file, with how it was made and a fingerprint of the base in its metadata.

        Parameters of the base that train, or that were replaced, are in the file as well, as ``base.<name>``.
        """
        adapter = self._adapters[checks.choice("name", name, list(self._adapters))]
        base = self._originals or self._base.state
        slots = self._base.slots()
        fixed = [label for label, (_, trains) in slots.items() if label in self._replaced and not trains]
        kept = [label for label, (_, trains) in slots.items() if trains or label in self._replaced]
        config = AdapterConfig(
            adapter.family,
            adapter.rank,
            float(adapter.alpha),
            {site.label: (site.rank, float(site.alpha)) for site in adapter.sites},
            self._options[name],
            adapter.settings,
            fingerprint(base, kept),
            fixed,
        )
        tensors = {label: array for label, array in adapter.state.items() if not label.startswith(BASE)}
        write_adapter(path, config, {**tensors, **{BASE + label: base[label] for label in kept}})

    def load_adapter(self, path: str | Path, name: str = DEFAULT) -> Adapter:
        """Add the adapter of a file that :meth:`save_adapter` wrote, and make it active.

        LoadError for a file that belongs to another base, that is damaged or does not fit; the model is then as it was.
        """
        self._check_free(name)
        config, tensors = read_adapter(path)
        given = [label.removeprefix(BASE) for label in tensors if label.startswith(BASE)]
        if fingerprint(self._base.state, given) != config.fingerprint:
            raise LoadError(f"{path}: the adapter was trained on another base than {self._base.layer_name}")
        try:
            made = self.remade(config)
        except (ValueError, TypeError) as error:
            raise LoadError(f"{path}: {error}") from error
        slots = self._base.slots()
        own = {label: array for label, array in made.state.items() if not label.startswith(BASE)}
        kept = {BASE + label: slots[label][0].array for label in given if label in slots}
        check_tensors(path, tensors, {**own, **kept})
        made.assign({label: tensors[label] for label in own})
        replaced = {label: tensors[BASE + label] for label in given}
        self.replace_base({k: v for k, v in replaced.items() if k not in config.fixed}, trainable=True)
        self.replace_base({k: v for k, v in replaced.items() if k in config.fixed}, trainable=False)
        self._register(name, made, config.options)
        return made

    def save_pretrained(
        self,
        folder: str | Path,
        name: str = DEFAULT,
        *,
        modules: Mapping[str, str] | None = None,
        base_name: str = "",
    ) -> None:
        """Write a LoRA, DoRA or LoKr adapter to a folder as PEFT saves it, for PEFT to load.

        What trains of the base, or was replaced in it, is in the file as well. The module paths are those of the file
        that the adapter came from, or what the model's parameters and scopes tell; ``modules`` gives others, by weight.
        ``base_name`` is what PEFT is to note of the model. ValueError for what PEFT has no form for.
        """
        adapter = self._adapters[checks.choice("name", name, list(self._adapters))]
        naming = Naming(targets(self._base), {**self.module_names, **(modules or {})})
        base = self._originals or self._base.state
        kept = [label for label, (_, trains) in self._base.slots().items() if trains or label in self._replaced]
        write_pretrained(Path(folder), adapter, naming, base, kept, base_name)

    def remade(self, config: AdapterConfig) -> Adapter:
        """An adapter made as ``config`` says, which is not added; ValueError or TypeError where there is none such."""
        family = FAMILIES[checks.choice("family", config.family, list(FAMILIES))]
        places = {target.name: target.site for target in targets(self._base, family.has_pairs)}
        unknown = sorted(config.weights.keys() - places.keys())
        if unknown:
            raise ValueError(f"the model does not multiply by {', '.join(unknown)}")
        sites = [replace(places[name], rank=rank, alpha=alpha) for name, (rank, alpha) in config.weights.items()]
        made = family(self._base, config.rank, alpha=config.alpha, site=sites, **config.options)
        for setting, value in config.settings.items():
            if setting not in made.settings:
                raise ValueError(f"a {config.family} adapter has no setting {setting!r}")
            setattr(made, setting, value)
        return made
