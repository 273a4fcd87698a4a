"""Checkpoints in object stores: what is not marked complete is not there, and faults on the way change nothing."""

from collections.abc import Callable, Iterator

import pytest
import torch

from raexla.checkpoint import Checkpoint, checkpoints, latest, open_saver
from raexla.checkpoint.recipe import CheckpointRecipe
from raexla.files import FileUnavailable, Store
from tests.remote.proxy import FaultyProxy
from tests.unit.checkpoint.worlds import assert_same, eager, small_state, zeros


@pytest.fixture(params=["gs", "s3"])
def folder(request: pytest.FixtureRequest) -> Iterator[str]:
    """A `checkpoints` folder of either kind, empty at first."""
    request.getfixturevalue("gcs" if request.param == "gs" else "s3")
    store = Store(f"{request.param}://bucket/run/checkpoints")
    store.remove_folder("")
    yield store.url
    store.remove_folder("")


def test_saved_found_restored_and_pruned(folder):
    saver = open_saver(folder, eager(), CheckpointRecipe(keep=2))
    assert saver.latest() is None
    for step in (1, 2, 3):
        saver.save(step, small_state(step), {"cursor": {"at": step}})
    saver.wait()
    assert saver.close() is None
    found = latest(folder)
    assert found is not None
    assert (found.step, found.meta) == (3, {"cursor": {"at": 3}})
    found.verify()
    fresh = zeros(small_state())
    found.restore(fresh, eager())
    assert_same(fresh, small_state(3))
    assert len(checkpoints(folder)) == 2


def test_an_unmarked_checkpoint_is_not_there(folder):
    runtime = eager()
    saver = open_saver(folder, runtime, CheckpointRecipe())
    for step in (1, 2):
        saver.save(step, small_state(step), {})
    saver.close()
    Store(folder).remove("step-00000002/complete.json")  # as if the program had been killed before
    found = latest(folder)
    assert found is not None
    assert found.step == 1
    again = open_saver(folder, runtime, CheckpointRecipe())
    assert again.cleaned == ["step-00000002"]
    assert Store(folder).children() == ["step-00000001"]


def test_faults_on_the_way_change_nothing(faulty: Callable[..., FaultyProxy]):
    url = "gs://bucket/faulty-run/checkpoints"
    proxy = faulty(rate=0.05, seed=2)
    runtime = eager()
    saver = open_saver(url, runtime, CheckpointRecipe(keep=2))
    state = small_state() | {"model/large": torch.randn(500, 500)}
    for step in range(1, 7):
        state["model/count"].add_(1)
        saver.save(step, state, {"at": step})
        saver.wait()
    assert saver.close() is None
    found = latest(url)
    assert found is not None
    fresh = zeros(state)
    found.restore(fresh, runtime)
    assert_same(fresh, state)
    Checkpoint.open(f"{url}/step-{5:08d}").verify()
    assert sum(proxy.done.values()) >= 4


def test_storage_that_is_away_is_never_a_fresh_start(faulty: Callable[..., FaultyProxy]):
    url = "gs://bucket/away-run/checkpoints"
    proxy = faulty(rate=0.0, kinds=("503",))
    saver = open_saver(url, eager(), CheckpointRecipe())
    saver.save(1, small_state(), {})
    saver.wait()
    proxy.rate = 1.0
    with pytest.raises(FileUnavailable, match="still failing after"):
        latest(url)
