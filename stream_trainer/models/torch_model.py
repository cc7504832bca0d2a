"""A PyTorch network that learns from a stream, one batch of any size at a time.

It owns all that learning changes: the standardiser of its inputs, the network with its norm moments, the optimizer and
the seed of its own randomness. Legend: N = records, K = classes.
Refused: plain BatchNorm; a step on a loss or gradient that is not finite; pickles (its state is tensors and JSON).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream_trainer.errors import CheckpointError, ModelError
from stream_trainer.models.buffers import Buffers
from stream_trainer.models.closure_step import RECORDS_MIN, StepMemory, first_known, needs_closure
from stream_trainer.models.initial_weights import InitialWeights
from stream_trainer.models.input_layer import renew_input_layer
from stream_trainer.models.late_copy import LateCopy
from stream_trainer.models.modes import Modes
from stream_trainer.models.own_randomness import own_randomness
from stream_trainer.models.plasticity import PlasticityWatch, weight_lengths
from stream_trainer.models.shares import shares, together
from stream_trainer.models.standardise import InputStandardiser, RunningScale
from stream_trainer.models.step_factors import StepFactors, checked_factor
from stream_trainer.models.temperature import Temperature
from stream_trainer.models.torch_options import TorchOptions, build_configured
from stream_trainer.models.torch_state import check_same_tensors, optimizer_memory, restore_optimizer, under
from stream_trainer.norms import NormDrift, drift_numbers, stateful_norms
from stream_trainer.optimizers import Stepper, build_optimizer, gradient_norm
from stream_trainer.schema import Schema, TargetKind
from stream_trainer.types import Batch, LayerPlasticity, LearnReport, Prediction, State

__all__ = ["TorchModel"]


class TorchModel:
    """A `contracts.Model` around one network; trains in float32 on the CPU, or wherever `device` says.

    Classes: cross-entropy. A number: the network predicts it standardised, under a Huber loss, so that neither its
    unit nor an outlier decides how large a step is. How sure it says it is of a class follows how sure it was right to
    be (temperature.py).
    Dropout and the like draw from a random state of our own, a function of the seed and the records learned.
    """

    def __init__(self, schema: Schema, options: TorchOptions, *, device: str = "cpu") -> None:
        """Raises ConfigError for whatever in `options` cannot be built for this schema."""
        self.schema, self.options, self.device = schema, options, torch.device(device)
        self._records = 0  # learned so far
        self._factors = StepFactors()
        self._seed = options.seed  # of the state: it comes with a state that another seed began
        self._initial = InitialWeights(self._build)
        self._late = LateCopy()  # of the last snapshot; whole before anything of it changes
        self.network = self._build(self._seed)
        name, settings = options.optimizer_spec
        optimizer = build_optimizer(name, self.network.parameters(), **settings)
        self._stepper = Stepper(optimizer, options.rate_scaling)
        self._plasticity = PlasticityWatch(self.network)
        self._norms = stateful_norms(self.network)
        self._buffers, self._modes = Buffers(self.network), Modes(self.network)
        self._parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self._standardiser = self._new_standardiser()
        self._classes = schema.target.kind is TargetKind.CLASSES
        self._temperature = Temperature()
        self._asked: tuple[Batch, np.ndarray] | None = None  # outputs for the batch that will be learned next
        self._target_scale = RunningScale(columns=1, half_life_records=options.input_half_life_records)

    def _build(self, seed: int) -> nn.Module:
        with own_randomness(seed, records=0):
            return build_configured(self.schema, self.options).to(self.device)

    def _new_standardiser(self) -> InputStandardiser:
        options = self.options
        return InputStandardiser(
            self.schema, half_life_records=options.input_half_life_records, abs_max=options.input_abs_max
        )

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its parameter groups may be changed between steps, for example the learning rate."""
        return self._stepper.optimizer

    def scale_rate(self, factor: float) -> None:
        """Learn with `factor` times the base rate from now on; 1: with the base rate itself, to the last bit.

        Captured with the rest. Raises: ConfigError: the factor is not above 0 and finite.
        """
        self._factors.rate = checked_factor("scale_rate", factor)

    def scale_pull(self, factor: float) -> None:
        """Pull to the initial weights `factor` times as hard from now on; 1: as configured, to the last bit.

        Captured with the rest. Without effect where the optimizer does not pull. Raises: ConfigError as `scale_rate`.
        """
        self._factors.pull = checked_factor("scale_pull", factor)

    def renew_input_layer(self) -> None:
        """Begin anew with the layer that reads the inputs and their scales, for they mean something else from now on.

        What the optimizer remembers stays: measured, squared gradients that begin anew cost more than they bring.
        """
        self._late.finish()
        renew_input_layer(self.network, self._build(self._seed))
        self._standardiser = self._new_standardiser()

    # ------------------------------------------------------------ predict

    def predict(self, batch: Batch) -> Prediction:
        """(N, K) probabilities, or (N,) values; where the network has no finite answer: uniform, or the mean so far.

        Raises: ModelError: the network returned another shape than (N, outputs).
        """
        outputs_NK = self._outputs(batch)
        self._asked = batch, outputs_NK
        if self._classes:
            return self._temperature.probabilities(outputs_NK)
        return self._target_scale.restore_units(outputs_NK)[:, 0]

    def _outputs(self, batch: Batch) -> np.ndarray:
        """(N, K) float64, finite; a row of zeros where the network has no finite answer."""
        self._modes.train(False)
        with torch.inference_mode():
            outputs_NK = self._forward(batch).to("cpu", torch.float64).numpy()
        if not np.isfinite(outputs_NK).all():
            outputs_NK = np.where(np.isfinite(outputs_NK).all(axis=1, keepdims=True), outputs_NK, 0.0)
        return np.asarray(outputs_NK)

    def _forward(self, batch: Batch) -> Tensor:
        inputs = self._standardiser.inputs(batch)
        outputs = self.network(*(x.to(self.device) for x in inputs))
        expected = (len(batch), self.schema.target.outputs)
        if tuple(outputs.shape) != expected:
            raise ModelError(
                f"The network returned shape {tuple(outputs.shape)} for {len(batch)} records; expected {expected}. "
                f"Its last layer needs {expected[1]} outputs, one row per record."
            )
        return outputs

    # ------------------------------------------------------------ learn

    def learn(self, batch: Batch) -> LearnReport:
        """Steps on the mean loss of at most `step_records_max` records, each on a sample of the batch: cross-entropy in
        nats, or Huber in standard deviations of the target. lbfgs takes one step on all of them.

        Returns: loss and gradient norm before each step and before clipping, and the rate after scaling, in the mean;
                 the scale of the outputs from here on; and `skipped` if a step was not taken: "non_finite"; of lbfgs
                 "worse", the step raised the loss of its own batch, or "too_few", a batch of fewer than 16 records.
                 What was not taken changed nothing.
        Raises:  ModelError as `predict`.
        """
        before_NK = self._outputs_before(batch) if self._classes and self.options.calibrated else None
        self._asked = None
        parts = shares(batch, None if needs_closure(self.optimizer) else self.options.step_records_max)
        report = together([self._learn(part) for part in parts], [len(part) for part in parts])
        if before_NK is not None and report.loss is not None:
            self._temperature.observe(before_NK, batch.y_N)
            return replace(report, output_scale=self._temperature.scale)
        return report

    def _outputs_before(self, batch: Batch) -> np.ndarray:
        """What the network said of these records, or would have said, before it learns them."""
        if self._asked is not None and self._asked[0] is batch:
            return self._asked[1]
        return self._outputs(batch)

    def _learn(self, batch: Batch) -> LearnReport:
        """One step."""
        by_closure = needs_closure(self.optimizer)
        if by_closure and len(batch) < RECORDS_MIN:
            return LearnReport(skipped="too_few")
        past = self._moments()
        self._standardiser.observe(batch)
        target = self._target(batch)
        with self._plasticity.listening(self._records):
            loss = self._backward(batch, target)
        length = gradient_norm(self._parameters)
        if not (math.isfinite(loss) and math.isfinite(length)):
            self._recall(past)
            return LearnReport(skipped="non_finite")
        limit = self.options.gradient_limit(len(batch))
        if not by_closure and length > limit:
            torch._foreach_mul_([p.grad for p in self._parameters if p.grad is not None], limit / length)
        with self._plasticity.around_step(self._records, len(batch)):
            rate = self._step_by_closure(batch, target, loss, past) if by_closure else self._step(len(batch))
        if rate is None:
            self._recall(past)
            return LearnReport(skipped="worse")
        if not self._records:
            self._initial.leave_out(optimizer_memory(self.optimizer)[0], self._seed)  # dear once: not in the first save
        self._records += len(batch)
        return LearnReport(loss=loss, gradient_norm=length, learning_rate=rate)

    def _step_by_closure(self, batch: Batch, target: Tensor, loss: float, past: tuple[Any, ...]) -> float | None:
        """A step that asks for the loss again and again; None: it did harm, and weights and optimizer are as before."""
        before = StepMemory(self._parameters, self.optimizer)
        moved = self._buffers.keep()

        def evaluate() -> float:
            self._buffers.put_back(past[0])
            return self._backward(batch, target)

        learning_rate = self._step(len(batch), first_known(loss, evaluate))
        self._buffers.put_back(past[0])
        with torch.no_grad():
            after = self._loss(batch, target).item()
        if not after <= loss:  # NaN is not
            before.recall()
            return None
        self._buffers.put_back(moved)
        return learning_rate

    def _step(self, records: int, closure: Callable[[], float] | None = None) -> float:
        self._late.finish()
        with self._factors.applied(self.optimizer.param_groups):
            return self._stepper.step(records, closure)

    def _backward(self, batch: Batch, target: Tensor) -> float:
        """Predict in training mode, and leave the gradients of the mean loss; returns the loss."""
        self._drop_gradients()
        loss = self._loss(batch, target)
        loss.backward()
        return loss.item()

    def _loss(self, batch: Batch, target: Tensor) -> Tensor:
        self._modes.train(True)
        with own_randomness(self._seed, self._records):
            outputs = self._forward(batch)
            if self._classes:
                return nn.functional.cross_entropy(outputs, target)
            return nn.functional.huber_loss(outputs[:, 0], target)

    def _target(self, batch: Batch) -> Tensor:
        if self._classes:
            return torch.tensor(batch.y_N, device=self.device)
        y_N1 = batch.y_N[:, None].astype(np.float64)
        self._target_scale.observe(y_N1)
        return torch.tensor(self._target_scale.standardise(y_N1)[:, 0], dtype=torch.float32, device=self.device)

    def _moments(self) -> tuple[Any, ...]:
        """What the forward pass moves and no optimizer guards, kept until the loss is known to be finite."""
        return self._buffers.keep(), self._standardiser.memory, self._target_scale.memory

    def _recall(self, past: tuple[Any, ...]) -> None:
        network, inputs, target = past
        self._buffers.put_back(network)
        self._standardiser.recall(inputs)
        self._target_scale.recall(target)
        self._plasticity.drop_pool()
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for parameter in self._parameters:  # `zero_grad` takes as long as a layer, for torch's profiler
            parameter.grad = None

    def norm_drift(self) -> dict[str, NormDrift]:
        """Layer -> how far its activations moved with the last batch learned; without the layers that cannot tell."""
        return drift_numbers(self._norms)

    def plasticity(self) -> Mapping[str, LayerPlasticity]:
        """Layer -> signs that it stops learning, as last measured: after 1,024 records, and then every 50,000."""
        return self._plasticity.layers

    # ------------------------------------------------------------ survive

    def capture(self) -> State:
        """Tensors under network., optimizer. and standardiser.; no pickles."""
        state, finish = self.capture_late()
        finish()
        return state

    def capture_late(self) -> tuple[State, Callable[[], None]]:
        """The same, but large tensors are whole only after the call of what is returned beside it: from any thread,
        and at the latest, by ourselves, when the next batch's gradients are known."""
        self._late.finish()
        late = self._late = LateCopy()
        weights = {name for name, _ in self.network.named_parameters()}  # the forward pass moves the rest: now or never
        network = {
            f"network.{name}": late.of(tensor) if name in weights else tensor.detach().clone()
            for name, tensor in self.network.state_dict().items()
        }
        optimizer, settings = optimizer_memory(self.optimizer)
        optimizer, initial = self._initial.leave_out(optimizer, self._seed)
        inputs = {f"standardiser.{name}": array for name, array in self._standardiser.capture().items()}
        target = {f"target.{name}": array for name, array in self._target_scale.capture().items()}
        state = State(
            arrays={
                **network,
                **{f"optimizer.{name}": late.of(tensor) for name, tensor in optimizer.items()},
                **inputs,
                **target,
            },
            values={
                "records": self._records,
                "rate_factor": self._factors.rate,
                "pull_factor": self._factors.pull,
                "temperature": self._temperature.capture(),
                "seed": self._seed,
                "initial": initial,
                "initial_lengths": dict(self._plasticity.initial_lengths),
                "optimizer": settings,
                **self._identity(),
            },
        )
        return state, late.finish

    def restore(self, state: State) -> None:
        """Become what was captured.

        Raises: CheckpointError: it is of another schema, network or optimizer, or began with weights that the seed
            does not make here.
        """
        for name, value in self._identity().items():
            if state.values.get(name) != value:
                raise CheckpointError(
                    f"torch model: the checkpoint has {name} {state.values.get(name)!r}, this run {value!r}. "
                    "Start with the configuration it was saved with, or from a fresh checkpoint directory."
                )
        self._late.finish()
        network = {name: torch.as_tensor(array) for name, array in under("network.", state.arrays).items()}
        check_same_tensors(self.network.state_dict(), network)
        seed = state.values.get("seed", self.options.seed)  # like the factors: older states have none
        optimizer = self._initial.put_back(under("optimizer.", state.arrays), state.values.get("initial"), seed)
        restore_optimizer(self.optimizer, optimizer, state.values["optimizer"])
        self.network.load_state_dict(network)
        self._standardiser.restore(under("standardiser.", state.arrays))
        self._target_scale.restore(under("target.", state.arrays))
        self._records, self._seed = state.values["records"], seed
        lengths = state.values.get("initial_lengths")  # likewise; there the seed makes the weights again
        self._plasticity.restart(weight_lengths(self._build(seed)) if lengths is None else lengths)
        self._factors.rate = state.values.get("rate_factor", 1.0)
        self._factors.pull = state.values.get("pull_factor", 1.0)
        self._temperature.restore(state.values.get("temperature") or Temperature().capture())
        self._asked = None

    def _identity(self) -> dict[str, Any]:
        return {
            "kind": "torch",
            "features": list(self.schema.feature_names),
            "target": [self.schema.target.name, *self.schema.target.classes],
            "optimizer_name": self.options.optimizer_spec[0],
        }
