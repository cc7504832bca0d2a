"""What every network must keep, whatever its norm, optimizer and target."""

import json

import numpy as np
import pytest
import torch
from models_stream import MIXED, NUMBERS, REGRESSION, cut, part, records
from torch import nn

from stream_trainer.errors import CheckpointError, ConfigError, ModelError
from stream_trainer.models import TorchModel, TorchOptions, build_model, state_sha256
from stream_trainer.norms import NORMS
from stream_trainer.schema import InputWidths
from stream_trainer.types import State

NORM_NAMES = sorted(set(NORMS) - {"batch", "instance", "frn", "evonorm_s0", "group_ws", "sync"})  # for dense layers
OPTIMIZERS = [
    "sgd",
    {"sgd": {"lr": 0.05, "momentum": 0.9}},
    "adam",
    "adamw",
    "stream_adamw",
    {"stream_adamw": {"beta1": 0.0}},
]
SIZES = [1, 7, 32, 3]


def build(schema=MIXED, **options):
    return TorchModel(schema, TorchOptions(**{"hidden": (16, 8), "norm": "layer", "seed": 3, **options}))


def as_saved(state: State) -> State:
    """The state as a checkpoint gives it back: values went through JSON, tensors through a file."""
    arrays = {name: torch.as_tensor(array).clone() for name, array in state.arrays.items()}
    return State(arrays=arrays, values=json.loads(json.dumps(state.values)), pickles=state.pickles)


@pytest.mark.parametrize("norm", NORM_NAMES)
@pytest.mark.parametrize("n_records", [1, 2, 33])
def test_any_batch_size_trains_and_leaves_finite_weights(norm, n_records):
    """Batches have the size that arrived; one record is a batch like any other."""
    model = build(norm=norm)
    before = [parameter.detach().clone() for parameter in model.network.parameters()]
    report = model.learn(records(MIXED, n_records))

    assert report.skipped is None
    assert np.isfinite([report.loss, report.gradient_norm, report.learning_rate]).all()
    assert all(torch.isfinite(parameter).all() for parameter in model.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.network.parameters()))


def test_every_size_from_1_to_300_gives_probabilities():
    """A prediction is a distribution for every record, however many arrived."""
    model, data = build(), records(MIXED, 300)
    for n_records in range(1, 301, 13):
        batch = part(data, 0, n_records)
        p_NK = model.predict(batch)
        model.learn(batch)

        assert (n_records, 3) == p_NK.shape
        assert np.float64 == p_NK.dtype
        np.testing.assert_allclose(1.0, p_NK.sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("schema", [MIXED, REGRESSION], ids=["classes", "number"])
def test_predict_changes_nothing(schema):
    """Scores would lie if being asked taught the model anything."""
    model, data = build(schema, dropout=0.5), records(schema, 60)
    model.learn(part(data, 0, 30))
    before, random_before = state_sha256(model.capture()), torch.get_rng_state()
    first = model.predict(data)
    second = model.predict(data)

    np.testing.assert_array_equal(first, second)
    assert before == state_sha256(model.capture())
    assert torch.equal(random_before, torch.get_rng_state())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_learning_lowers_the_loss(optimizer):
    """On a stream that does not drift, later losses are lower than the first ones."""
    if optimizer == "sgd":
        optimizer = {"sgd": {"lr": 0.1}}
    model, data = build(NUMBERS, optimizer=optimizer), records(NUMBERS, 6400)
    losses = [model.learn(batch).loss for batch in cut(data, [32])]

    assert np.mean(losses[-20:]) < 0.75 * np.mean(losses[:20])


def test_a_number_is_predicted_in_its_own_unit():
    """Targets around 1000 with a spread of 87: the constant prediction errs by about 70, in the units of the target."""
    model, data = build(REGRESSION), records(REGRESSION, 12_000)
    for batch in cut(part(data, 0, 11_000), [32]):
        model.learn(batch)
    test = part(data, 11_000, 12_000)

    assert model.predict(test).shape == (1000,)
    assert np.abs(model.predict(test) - test.y_N).mean() < 25.0


@pytest.mark.parametrize("norm", NORM_NAMES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_restored_twin_goes_on_bit_for_bit(norm, optimizer):
    """A restart must not be visible in any weight, whatever the layers and the optimizer remember."""
    data = records(MIXED, 400)
    batches = list(cut(data, SIZES))
    model = build(norm=norm, optimizer=optimizer, dropout=0.2)
    for batch in batches[:15]:
        model.learn(batch)
    twin = build(norm=norm, optimizer=optimizer, dropout=0.2)
    twin.restore(as_saved(model.capture()))

    assert state_sha256(model.capture()) == state_sha256(twin.capture())
    for batch in batches[15:]:
        assert model.learn(batch) == twin.learn(batch)
        np.testing.assert_array_equal(model.predict(batch), twin.predict(batch))
    assert state_sha256(model.capture()) == state_sha256(twin.capture())


def test_a_captured_state_does_not_change_when_learning_goes_on():
    """Checkpoints are written in the background, while the next batches are learned."""
    model, data = build(optimizer="stream_adamw", norm="batch_renorm"), records(MIXED, 90)
    model.learn(part(data, 0, 30))
    state = model.capture()
    before = state_sha256(state)
    model.learn(part(data, 30, 90))

    assert before == state_sha256(state)
    assert before != state_sha256(model.capture())


def test_a_changed_learning_rate_survives_a_restart():
    """A reaction to drift may have changed it; forgetting that would make the restart visible."""
    model = build(optimizer="adam")
    model.learn(records(MIXED, 8))
    model.optimizer.param_groups[0]["lr"] = 0.005
    twin = build(optimizer="adam")
    twin.restore(as_saved(model.capture()))

    assert twin.learn(records(MIXED, 8)).learning_rate == 0.005


@pytest.mark.parametrize("optimizer", ["stream_adamw", "adam"])
def test_a_scaled_rate_survives_a_restart_and_ends_without_a_trace(optimizer):
    """The groups hold the base rate throughout: multiplied and divided it would not come back to the last bit."""
    batch = records(NUMBERS, 16)
    model, twin = build(NUMBERS, optimizer=optimizer), build(NUMBERS, optimizer=optimizer)
    base = model.learn(batch).learning_rate
    model.scale_rate(3.0)
    twin.restore(as_saved(model.capture()))

    assert [3 * base] * 2 == [m.learn(batch).learning_rate for m in (model, twin)]
    model.scale_rate(1.0)
    assert base == model.learn(batch).learning_rate


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_cannot_be_scaled_by_what_is_no_factor(factor):
    """It would stop the learning, or end it."""
    with pytest.raises(ConfigError, match="expected a finite factor above 0"):
        build(NUMBERS).scale_rate(factor)


@pytest.mark.parametrize("schema", [NUMBERS, MIXED])
def test_the_input_layer_begins_anew_alone(schema):
    """Its weights and the scales of the inputs, neither embeddings nor biases; a snapshot from before is whole."""
    model = build(schema)
    began = {name: value.clone() for name, value in model.network.state_dict().items()}
    for batch in cut(records(schema, 96), [16]):
        model.learn(batch)
    learned = {name: value.clone() for name, value in model.network.state_dict().items()}
    state, finish = model.capture_late()
    model.renew_input_layer()
    finish()
    renewed = [name for name, value in model.network.state_dict().items() if not torch.equal(value, learned[name])]

    [name] = renewed
    assert name == next(n for n, v in learned.items() if n.endswith("weight") and v.ndim == 2 and "embed" not in n)
    assert torch.equal(model.network.state_dict()[name], began[name])
    assert not model.capture().arrays["standardiser.numbers.weight"].any()
    assert torch.equal(torch.as_tensor(state.arrays[f"network.{name}"]), learned[name])
    assert model.learn(records(schema, 16)).skipped is None


def test_a_harder_pull_survives_a_restart_and_ends_without_a_trace():
    """The group holds the configured horizon throughout; a model without a pull takes no notice."""
    batches = list(cut(records(NUMBERS, 64), [16]))
    options = {"optimizer": {"stream_adamw": {"lr": 0.0, "pull_horizon_records": 1000}}, "norm": "none"}
    model, twin = build(NUMBERS, **options), build(NUMBERS, **options)
    model.learn(batches[0])
    weight = model.network.body[0].weight
    begun = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    model.scale_pull(100.0)
    twin.restore(as_saved(model.capture()))
    for one in (model, twin):
        one.learn(batches[1])

        left = one.network.body[0].weight.detach() - begun
        torch.testing.assert_close(torch.full_like(left, np.exp(-16 / 10)), left, rtol=1e-4, atol=1e-5)
        assert 1000 == one.optimizer.param_groups[0]["pull_horizon_records"]
    model.scale_pull(1.0)
    model.learn(batches[2])
    torch.testing.assert_close(left * np.exp(-16 / 1000), weight.detach() - begun, rtol=1e-4, atol=1e-5)
    free = build(NUMBERS, optimizer={"sgd": {"lr": 0.0}}, norm="none")
    free.scale_pull(100.0)
    before = free.network.body[0].weight.detach().clone()
    free.learn(batches[0])
    assert torch.equal(before, free.network.body[0].weight)


# ------------------------------------------------------------ the weights it began with


def test_the_initial_weights_are_in_no_checkpoint():
    """The seed makes them again: a second copy of the network in each of thousands of checkpoints would say nothing."""
    model = build(optimizer="stream_adamw")
    for batch in cut(records(MIXED, 60), [20]):
        model.learn(batch)
    state = model.capture()

    assert not [name for name in state.arrays if name.endswith(".initial")]
    assert {"names", "sha256"} == set(state.values["initial"])
    dense = [parameter for parameter in model.network.parameters() if "row_weight" not in of(model, parameter)]
    assert dense
    assert all("initial" in of(model, parameter) for parameter in dense)


def of(model, parameter):
    return model.optimizer.state[parameter]


def test_a_winner_from_another_seed_brings_its_beginning_along():
    """After a race the live model holds the state of a twin with a seed of its own; so does a restart after that."""
    data = list(cut(records(MIXED, 400), SIZES))
    fresh, live, resumed = (build(optimizer="stream_adamw", dropout=0.2, seed=seed) for seed in (7, 0, 0))
    for batch in data[:5]:
        fresh.learn(batch)
        live.learn(batch)
    live.restore(fresh.capture())
    resumed.restore(as_saved(live.capture()))
    for batch in data[5:]:
        assert fresh.learn(batch) == live.learn(batch) == resumed.learn(batch)

    assert 1 == len({state_sha256(model.capture()) for model in (fresh, live, resumed)})
    pairs = zip(live.network.parameters(), fresh.network.parameters())
    begun = [
        (of(live, ours)["initial"], of(fresh, other)["initial"]) for ours, other in pairs if "initial" in of(live, ours)
    ]
    assert begun
    assert all(torch.equal(ours, other) for ours, other in begun)


def test_a_state_with_the_initial_weights_in_it_can_still_be_loaded():
    """As older versions wrote it: with the tensors, without seed, note and pull."""
    model, twin = build(optimizer="stream_adamw"), build(optimizer="stream_adamw")
    model.learn(records(MIXED, 20))
    state = model.capture()
    tensors = {
        f"optimizer.state.{i}.initial": of(model, parameter)["initial"].clone()
        for i, parameter in enumerate(model.network.parameters())
        if "initial" in of(model, parameter)
    }
    values = {name: value for name, value in state.values.items() if name not in ("seed", "initial", "pull_factor")}
    twin.restore(as_saved(State(arrays={**state.arrays, **tensors}, values=values)))

    assert tensors
    assert model.learn(records(MIXED, 30)) == twin.learn(records(MIXED, 30))
    assert state_sha256(model.capture()) == state_sha256(twin.capture())


def test_a_state_from_before_squares_were_weighed_can_still_be_loaded():
    """As older versions wrote it: no count of records beside the squares, no agreement among the settings."""
    model, twin = build(optimizer="stream_adamw"), build(optimizer="stream_adamw")
    model.learn(records(MIXED, 16))
    old = as_saved(model.capture())
    memory = old.values["optimizer"]
    for numbers in memory["state"].values():
        numbers.pop("reference_records", None)
    for group in memory["groups"]:
        del group["agreement"], group["agreement_weight"]
    twin.restore(old)

    for size in (16, 3, 30):  # the first as large as those before: it tells of how many records the squares were
        assert model.learn(records(MIXED, size)) == twin.learn(records(MIXED, size))
    assert state_sha256(model.capture()) == state_sha256(twin.capture())


def test_initial_weights_that_come_out_differently_are_refused():
    """The pull would lead somewhere else from here on, and nobody would ever know."""
    model = build(optimizer="stream_adamw")
    model.learn(records(MIXED, 20))
    state = as_saved(model.capture())
    values = {**state.values, "seed": 1}

    with pytest.raises(
        CheckpointError, match=r"the initial weights made from seed 1 have sha256 \w{12}, the checkpoint"
    ):
        build(optimizer="stream_adamw").restore(State(arrays=state.arrays, values=values))


def unrepeatable(widths: InputWidths, outputs: int) -> nn.Module:
    """A factory that draws from numpy's own randomness."""
    net = nn.Linear(widths.numbers, outputs)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(np.random.default_rng().normal(size=tuple(net.weight.shape))))
    return net


def test_initial_weights_that_cannot_be_made_again_stay_in_the_checkpoint():
    """Found out before the first save, not after the first crash."""
    options = TorchOptions(module=f"{HERE}:unrepeatable")
    model, twin = (build_model(NUMBERS, "torch", options) for _ in range(2))
    model.learn(records(NUMBERS, 20))
    state = as_saved(model.capture())
    twin.restore(state)

    assert "optimizer.state.0.initial" in state.arrays
    assert state.values["initial"] is None
    assert torch.equal(of(model, model.network.weight)["initial"], of(twin, twin.network.weight)["initial"])
    assert state_sha256(state) == state_sha256(twin.capture())


def test_equal_seeds_repeat_and_others_do_not():
    """A run can be rebuilt from its configuration, whatever else in the process draws random numbers."""

    def run(seed):
        model = build(dropout=0.3, seed=seed)
        for batch in cut(records(MIXED, 200), SIZES):
            torch.rand(3)  # somebody else draws
            model.learn(batch)
        return state_sha256(model.capture())

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize("norm", ["adaptive_batch_renorm", "batch_renorm", "layer"])
@pytest.mark.parametrize("schema", [MIXED, REGRESSION], ids=["classes", "number"])
def test_a_batch_that_is_not_finite_leaves_no_trace(norm, schema):
    """One poisoned step would cost all learning so far: weights, moments, scales, random state must be as before."""
    model, data = build(schema, norm=norm, dropout=0.2), records(schema, 60)
    model.learn(part(data, 0, 30))
    before = state_sha256(model.capture())
    last = list(model.network.parameters())[-1]
    hook = last.register_hook(lambda gradient: gradient * float("nan"))
    report = model.learn(part(data, 30, 60))
    hook.remove()

    assert (report.skipped, report.loss) == ("non_finite", None)
    assert before == state_sha256(model.capture())
    assert model.learn(part(data, 30, 60)).skipped is None


def test_an_infinite_loss_leaves_no_trace():
    """Here the forward pass itself breaks, after the norm moments have moved."""
    model, data = build(norm="batch_renorm"), records(MIXED, 60)
    model.learn(part(data, 0, 30))
    last = list(model.network.parameters())[-1]
    good = last.detach().clone()
    with torch.no_grad():
        last[0] = float("inf")
    before = state_sha256(model.capture())

    assert model.learn(part(data, 30, 60)).skipped == "non_finite"
    assert before == state_sha256(model.capture())
    np.testing.assert_allclose(1.0, model.predict(data).sum(axis=1))
    with torch.no_grad():
        last.copy_(good)
    assert model.learn(part(data, 30, 60)).skipped is None


@pytest.mark.parametrize(("n_records", "limit"), [(1, 2.0), (4, 1.0), (16, 0.5), (64, 0.5)])
def test_a_huge_gradient_moves_the_weights_no_more_than_the_limit(n_records, limit):
    """sgd without clipping would follow one broken batch anywhere. Fewer than 16 records have longer gradients."""
    model = build(optimizer={"sgd": {"lr": 1.0}}, gradient_norm_max=0.5, step_records_max=None)
    last = list(model.network.parameters())[-1]
    last.register_hook(lambda gradient: gradient * 1e6)
    before = torch.cat([parameter.detach().flatten() for parameter in model.network.parameters()])
    report = model.learn(records(MIXED, n_records))
    after = torch.cat([parameter.detach().flatten() for parameter in model.network.parameters()])

    assert report.gradient_norm > 1e3
    torch.testing.assert_close(torch.tensor(limit), (after - before).norm())


def test_gradients_of_embeddings_are_clipped_with_the_others():
    """They are sparse; the norm counts a row once, however many records named it."""
    reports = [build(optimizer=o, gradient_norm_max=1e-3).learn(records(MIXED, 32)) for o in ("stream_adamw", "adam")]

    assert reports[0].gradient_norm == pytest.approx(reports[1].gradient_norm, rel=1e-5)


def test_a_category_that_does_not_occur_keeps_its_row():
    """Dense optimizers push and decay rows they know nothing about."""
    model = build(norm="layer", optimizer="stream_adamw")
    table = model.network.embeddings[0].weight
    before = table.detach().clone()
    data = records(MIXED, 50)
    seen = data.category_NC[:, 0] != 4
    batch = data.rows(seen)
    for _ in range(5):
        model.learn(batch)

    assert torch.equal(before[4], table[4])
    assert not torch.equal(before[6], table[6])  # the bucket of "absent" learns like any other


# ------------------------------------------------------------ networks of the user


def sequential(widths: InputWidths, outputs: int, width: int = 8) -> nn.Module:
    """Stands for a factory in the user's own package."""
    return nn.Sequential(nn.Linear(widths.numbers, width), nn.ReLU(), nn.Linear(width, outputs))


def with_batch_norm(widths: InputWidths, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(widths.numbers, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))


def too_narrow(widths: InputWidths, outputs: int) -> nn.Module:
    return nn.Linear(widths.numbers, outputs + 1)


def wanting_more(widths: InputWidths, outputs: int) -> nn.Module:
    return nn.Linear(widths.numbers + 1, outputs)


class Squeezing(nn.Linear):
    def forward(self, x):
        return super().forward(x).squeeze()


def squeezing(widths: InputWidths, outputs: int) -> nn.Module:
    return Squeezing(widths.numbers, outputs)


class Moody(nn.Linear):
    def forward(self, x):
        return super().forward(x[:4])


def moody(widths: InputWidths, outputs: int) -> nn.Module:
    return Moody(widths.numbers, outputs)


class Counter(nn.Module):
    """A module of the user's that puts a new tensor in the place of its buffer, which torch allows."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.last = nn.Linear(n_inputs, n_outputs)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen = self.seen + len(x)
        return self.last(x)


def counting(widths: InputWidths, outputs: int) -> nn.Module:
    return Counter(widths.numbers, outputs)


HERE = "test_models_torch_model"


def test_a_step_not_taken_is_undone_in_buffers_that_are_replaced():
    """Undone in the tensor that had been there, the memory would keep what was refused."""
    model = TorchModel(NUMBERS, TorchOptions(module=f"{HERE}:counting"))
    model.learn(records(NUMBERS, 20))
    hook = model.network.last.weight.register_hook(lambda gradient: gradient * float("nan"))
    report = model.learn(records(NUMBERS, 30))
    hook.remove()

    assert (report.skipped, model.network.seen.item()) == ("non_finite", 20)


def test_a_sequential_of_the_user_learns_from_numbers():
    """The factory is called with the input widths and the number of outputs, and its own options."""
    options = TorchOptions(module=f"{HERE}:sequential", module_options={"width": 12}, optimizer="adam")
    model = build_model(NUMBERS, "torch", options)
    losses = [model.learn(batch).loss for batch in cut(records(NUMBERS, 3200), [16])]

    assert model.network[0].out_features == 12
    assert np.mean(losses[-20:]) < np.mean(losses[:20])


def test_plain_batch_norm_is_refused_with_the_way_out():
    """It would run until the first batch of one arrives, some night."""
    with pytest.raises(ConfigError) as caught:
        build_model(NUMBERS, "torch", TorchOptions(module=f"{HERE}:with_batch_norm"))

    assert str(caught.value) == (
        "The network has a BatchNorm1d at '1'; it cannot learn from a batch of one, and batches have the size that "
        "arrived. In a network of ours set norm: adaptive_batch_renorm (or layer); in a module of yours set "
        "convert_norms: adaptive_batch_renorm, which exchanges every BatchNorm and keeps its weights."
    )
    with pytest.raises(ConfigError, match=r"The network has a BatchNorm at 'body\.1'"):
        build(norm="batch")


def test_convert_norms_makes_a_batch_norm_network_learn_from_one_record():
    """The promised way out works."""
    model = build_model(
        NUMBERS, "torch", TorchOptions(module=f"{HERE}:with_batch_norm", convert_norms="batch_renorm", optimizer="adam")
    )

    assert model.learn(records(NUMBERS, 1)).skipped is None


@pytest.mark.parametrize("norm", ["adaptive_batch_renorm", "continual"])
@pytest.mark.parametrize(("optimizer", "damping"), [("stream_adamw", "none"), ("adam", "batch")])
def test_a_norm_is_damped_unless_the_optimizer_counts_records(norm, optimizer, damping):
    """Both would count them twice, and of small batches little would stay; nobody should have to know that."""
    theirs = build_model(
        NUMBERS, "torch", TorchOptions(module=f"{HERE}:with_batch_norm", convert_norms=norm, optimizer=optimizer)
    )
    ours = build(NUMBERS, norm=norm, optimizer=optimizer)
    chosen = build(NUMBERS, norm=norm, optimizer=optimizer, norm_options={"damping": "batch"})

    assert damping == theirs.network[1].damping
    assert damping == ours.network.body[1].damping
    assert "batch" == chosen.network.body[1].damping


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("too_narrow", "the network returned (1, 3) for 1 record(s); expected (1, 2): one row per record"),
        ("squeezing", "the network returned (2,) for 1 record(s); expected (1, 2)"),
        ("wanting_more", "the network raised RuntimeError"),
    ],
)
def test_a_network_of_the_wrong_shape_is_refused_at_birth(factory, message):
    """Broadcasting would otherwise turn the mistake into a strange loss, or a batch of one into a crash at night."""
    with pytest.raises(ConfigError) as caught:
        build_model(NUMBERS, "torch", TorchOptions(module=f"{HERE}:{factory}"))

    assert message in str(caught.value)


def test_a_network_that_changes_its_shape_later_is_named():
    """What was true at birth may depend on the data."""
    model = build_model(NUMBERS, "torch", TorchOptions(module=f"{HERE}:moody", optimizer="adam"))

    with pytest.raises(ModelError, match=r"returned shape \(4, 2\) for 5 records; expected \(5, 2\)"):
        model.predict(records(NUMBERS, 5))


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"net": "resnet"}, "net is 'resnet'; known networks: gru, lenet,"),
        ({"optimizer": "adm"}, "optimizer is 'adm'; known optimizers: adam, adamw, lbfgs, sgd, stream_adamw."),
        ({"optimizer": {"sgd": {"learning_rate": 1}}}, "optimizer.sgd: no option 'learning_rate'; known options:"),
        ({"optimizer": {"sgd": {"lr": -1.0}}}, "Invalid learning rate: -1.0"),
        ({"norm": "batchnorm"}, "norm is 'batchnorm'; known norms:"),
        ({"dropout": 1.5}, "net 'mlp' cannot be built with"),
        ({"gradient_norm_max": 0.0}, "torch.gradient_norm_max is 0.0; expected more than 0."),
        ({"input_half_life_records": -1}, "torch.input_half_life_records is -1; expected more than 0."),
        ({"lr_scaling": {"rule": "sqrt", "reference": 3}}, "known keys: rule, reference_records."),
        ({"lr_scaling": "cubic"}, "lr_scaling.rule is 'cubic'; known rules: linear, momentum_exact, none, sqrt."),
        ({"optimizer": "stream_adamw", "lr_scaling": "sqrt"}, "stream_adamw counts records itself"),
        ({"optimizer": {"sgd": {}, "adam": {}}}, "expected a name or {name: {options}}"),
    ],
)
def test_a_wrong_option_is_answered_with_the_right_ones(options, message):
    """Checked at birth, so that a typing error costs a second and not a night."""
    with pytest.raises(ConfigError) as caught:
        build(**options)

    assert message in str(caught.value)


def test_net_options_beside_a_module_are_refused():
    """They would be ignored in silence; so would options of a module that is not there."""
    with pytest.raises(ConfigError, match="module is given, so hidden, norm has no use"):
        TorchOptions(module="a:b", hidden=(1,), norm="layer")
    with pytest.raises(ConfigError, match="convert_norms are for a module of yours"):
        TorchOptions(convert_norms="layer")


def test_a_factory_that_raises_is_named_with_what_it_was_given():
    """Its own message, and the arguments behind it."""
    options = TorchOptions(module=f"{HERE}:sequential", module_options={"depth": 3})
    with pytest.raises(ConfigError, match=r"raised TypeError: .*'depth'.* 2 outputs and the module_options"):
        build_model(NUMBERS, "torch", options)


@pytest.mark.parametrize("path", ["nowhere.at_all:make", f"{HERE}:missing", "justaname"])
def test_a_module_that_cannot_be_imported_is_named(path):
    """The message repeats what was tried."""
    with pytest.raises(ConfigError, match=f"torch.module is '{path}'; expected package.module:factory"):
        build_model(NUMBERS, "torch", TorchOptions(module=path))


def test_a_checkpoint_of_another_network_or_schema_is_refused():
    """Loading half of it would be worse than stopping."""
    model = build()
    model.learn(records(MIXED, 4))

    with pytest.raises(CheckpointError, match=r"'body.0.weight' has shape \[16, 16\] in the checkpoint and \[5, 16\]"):
        build(hidden=(5, 5)).restore(model.capture())
    with pytest.raises(CheckpointError, match="the checkpoint has features"):
        build(NUMBERS).restore(model.capture())
    with pytest.raises(CheckpointError, match="optimizer_name 'stream_adamw', this run 'adam'"):
        build(optimizer="adam").restore(model.capture())
