"""Which parts are compiled: the one switch, and modules that are not what they were."""

import runpy

import pytest

from stream_trainer import compiled
from stream_trainer.drift import drift_kernel
from stream_trainer.evaluation import score_kernel
from stream_trainer.optimizers import step_kernel

PARTS = {
    "stream_trainer.drift._kernel": drift_kernel,
    "stream_trainer.evaluation._kernel": score_kernel,
    "stream_trainer.optimizers._kernel": step_kernel,
}


@pytest.mark.parametrize("said", ["off", "portable", "auto"])
def test_the_environment_can_switch_them_off(monkeypatch, said):
    """One switch for all kernels; which instructions the norm layers take does not matter here."""
    monkeypatch.setenv("STREAM_TRAINER_KERNEL", said)
    begun_with = runpy.run_path(compiled.__file__)["use_compiled_parts"](True)

    assert (said != "off") is begun_with


@pytest.mark.parametrize(("module", "part"), PARTS.items())
def test_one_that_was_built_from_other_sources_is_not_called(module, part):
    """After an update without a new build its arguments would mean something else."""
    if part.built is None:
        pytest.skip("not built: install again where there is a C compiler")

    assert compiled.CompiledPart(module, calls=part.built.CALLS).in_use in ("compiled", "off")
    assert "off" == compiled.CompiledPart(module, calls=part.built.CALLS + 1).in_use
