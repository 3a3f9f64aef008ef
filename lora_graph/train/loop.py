"""The training loop."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from lora_graph import checks
from lora_graph.files import require_writable
from lora_graph.layers.layer import Layer
from lora_graph.train.checkpoint import Position, load_checkpoint, save_checkpoint
from lora_graph.train.data import Arrays, Batch, Data, data_of
from lora_graph.train.draws import seeded
from lora_graph.train.history import History
from lora_graph.train.interrupt import uninterrupted
from lora_graph.train.loss import Loss
from lora_graph.train.mode import training_mode
from lora_graph.train.optimizer import Optimizer
from lora_graph.train.settings import settings_of
from lora_graph.train.step import TrainingStep


class Progress(Protocol):
    """What shows how far a run is."""

    def advance(self, epoch: int, loss: float) -> None: ...


def fit(
    model: Layer,
    data: Any,
    *,
    loss: Loss = "mse",
    output: str | None = None,
    optimizer: Optimizer | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    engine: str = "auto",
    provider: str | None = None,
    threads: int | None = None,
    memory: str = "normal",
    clip_norm: float | None = None,
    clip_value: float | None = None,
    accumulate: int = 1,
    shuffle: bool = True,
    cache_frozen: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> History:
    """Train the parameters of ``model`` that are not frozen; the losses of every step and epoch come back.

    ``data`` is ``(inputs, targets)``, the path of an .npz file that holds both, or an iterable of such batches; the
    inputs of a model that has several are a dict of arrays by name, whose first axes count the samples. A third array,
    ``weights``, has the first axes of the targets and makes the loss Σ w l / Σ w, 0 where nothing weighs anything.
    ``loss`` is ``"mse"``, ``"cross_entropy"`` (labels of -100 are left out), ``"binary_cross_entropy"`` or a function
    of two Values, and of the weights where there are some, and applies to ``output`` where the model has several.
    ``optimizer`` is one of ``lg.SGD``, ``lg.Adam`` (default), ``lg.AdamW``. ``clip_norm`` limits the norm of the whole
    gradient, ``clip_value`` each element; ``accumulate`` takes a step on that many batches as on one. ``seed`` decides
    the order of the samples and every draw.

    ``engine`` runs the steps: ``"numpy"``, the interpreter; ``"onnxruntime"``, the very same graph in a session, on
    ``provider`` ``"cpu"`` or ``"cuda"``; ``"auto"``, the fastest of those here that has a kernel for every op of the
    step. History says which it was and why. They agree up to rounding. ``threads`` bounds those of one op. ValueError
    for a provider that is not available, and for an engine that lacks an op, naming it.

    ``memory="low"`` lets go of activations that are cheap to compute and computes them again when gradients need them,
    for at most a tenth more work; losses stay the same, bit for bit in NumPy.

    ``progress`` shows a bar on standard error, by default if that is a
    terminal. The model trains in training mode and gets its own mode back.

    ``cache_frozen=True`` runs what is frozen once for each sample and not in every epoch: of all that depends neither
    on a parameter that trains, nor on a draw, nor on other samples, the results of products (matrices, convolutions,
    attention, recurrences) are held in memory, at the point where they take the fewest bytes; what is cheap, such as a
    mask or an embedding, is computed again. ValueError for data that is no arrays. Losses differ by rounding at most.

    ``checkpoint`` is written after each epoch and on interruption; ``resume=True`` goes on from it, bit for bit, if the
    file is there, and to more epochs if asked. LoadError if it belongs to another run: another model, other frozen
    parameters, other settings, another engine.

    A step whose loss or gradient is not finite is not committed: TrainingError names it, and the model keeps the
    parameters before it.
    """
    checks.integer("epochs", epochs, 0)
    checks.integer("batch_size", batch_size, 1)
    checks.integer("seed", seed, 0)
    checks.integer("accumulate", accumulate, 1)
    if progress is not None:
        checks.flag("progress", progress)
    source = data_of(data, batch_size, epochs, checks.flag("shuffle", shuffle))
    if checks.flag("resume", resume) and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=path")
    training = TrainingStep(
        model,
        loss,
        optimizer,
        clip_norm=clip_norm,
        clip_value=clip_value,
        accumulated=accumulate > 1,
        output=output,
        cache_frozen=checks.flag("cache_frozen", cache_frozen),
        engine=engine,
        provider=provider,
        threads=threads,
        memory=memory,
    )
    if cache_frozen and not isinstance(source, Arrays):
        raise ValueError("cache_frozen needs data as arrays or in an .npz file: samples of an iterable have no numbers")
    run = _Run(
        training, source, seed, accumulate, Position(history=History(training.choice.engine.name, training.choice.why))
    )
    with training_mode(model), _bounded(threads):
        if checkpoint is not None:
            chosen_here = {"seed": seed, "batch_size": batch_size, "accumulate": accumulate, "shuffle": shuffle}
            run.keep(checkpoint, settings_of(training, **chosen_here), resume)
        if cache_frozen and isinstance(source, Arrays) and run.position.epoch < epochs:
            run.source = training.hold(source)
        with _shown(progress, epochs, run) as bar:
            try:
                while run.position.epoch < epochs:
                    run.epoch(bar)
            finally:
                training.sync()
    return run.position.history


@dataclass
class _Run:
    """A training run: what it trains on what, and how far it is."""

    training: TrainingStep
    source: Data
    seed: int
    accumulate: int
    position: Position
    checkpoint: str | Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def keep(self, checkpoint: str | Path, settings: dict[str, Any], resume: bool) -> None:
        """Write checkpoints to a file from now on, after going on from it if ``resume`` and there is one."""
        require_writable(checkpoint)
        self.checkpoint, self.settings = checkpoint, settings
        if resume and Path(checkpoint).exists():
            self.position = load_checkpoint(checkpoint, self.training, settings)

    def epoch(self, bar: Progress) -> None:
        """The rest of the current epoch."""
        history, position, started = self.position.history, self.position, time.perf_counter()
        first = len(history.losses) - position.step
        batches = self.source.epoch(self.seed, position.epoch)
        try:
            for group in islice(_groups(batches, self.accumulate), position.step, None):
                with uninterrupted():
                    self._step(group)
                bar.advance(position.epoch, history.losses[-1])
        except KeyboardInterrupt:
            self.save()
            raise
        finally:
            history.seconds += time.perf_counter() - started
        taken = history.losses[first:]
        if not taken:
            raise ValueError("data gave no batch")
        history.epoch_losses.append(sum(taken) / len(taken))
        position.epoch, position.step = position.epoch + 1, 0
        self.save()

    def _step(self, group: list[Batch]) -> None:
        history, training = self.position.history, self.training
        result = training.run_batches(group, seeded(self.seed, training.count))
        history.engine, history.why = training.choice.engine.name, training.choice.why
        history.losses.append(result.loss)
        history.gradient_norms.append(result.gradient_norm)
        history.learning_rates.append(result.learning_rate)
        history.samples += result.samples
        self.position.step += 1

    def save(self) -> None:
        if self.checkpoint is not None:
            save_checkpoint(self.checkpoint, self.training, self.position, self.settings)


def _groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """The batches that make up one step each."""
    while group := list(islice(batches, size)):
        yield group


@contextmanager
def _bounded(threads: int | None) -> Iterator[None]:
    """BLAS with at most so many threads."""
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        yield


class _Silent:
    def advance(self, epoch: int, loss: float) -> None:
        pass


@contextmanager
def _shown(wanted: bool | None, epochs: int, run: _Run) -> Iterator[Progress]:
    """A progress bar, by default when the output is a terminal."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield _Silent()
        return
    from lora_graph.train.progress import Bar

    steps = -(-len(run.source) // run.accumulate) * epochs
    with Bar(epochs, steps or None, run.training.count) as bar:
        yield bar
