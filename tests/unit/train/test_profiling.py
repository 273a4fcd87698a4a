"""Steps under the profiler, the compile cache, and scalars that are read a step late."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raexla import cli
from raexla.obs.metrics import read_metrics
from raexla.obs.profile import profile
from raexla.obs.xplane import read_xplane
from raexla.recipe import UserError
from raexla.runtime import Scalars
from raexla.runtime.eager import EagerRuntime
from raexla.train.profiling import ProfileRecipe, StepProfiler
from tests import stages
from tests.harness import in_process


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return stages.world(tmp_path_factory.mktemp("world"))


def train(made: dict[str, str], folder: Path, *arguments: str, **changes: Any) -> int:
    """Six steps by the command line; the run is `folder/run`."""
    values = stages.encoder(made, folder / "run") | {"train": {"steps": 6, "global_batch_images": 8}} | changes
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "recipe.yaml").write_text(json.dumps(values))
    return cli.main(["train", str(folder / "recipe.yaml"), *arguments])


# -- which steps --


@pytest.mark.parametrize(("given", "first", "last"), [("10-12", 10, 12), ("7", 7, 7), (7, 7, 7), ("3 - 4", 3, 4)])
def test_steps_can_be_given_briefly(given: str | int, first: int, last: int) -> None:
    assert ProfileRecipe.model_validate(given) == ProfileRecipe(first=first, last=last)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ten", "'ten': give the first and the last step, like 10-12"),
        ("12-10", "the last step, 10, comes before the first, 12"),
        ("true", "profile"),
        ("0", "greater than or equal to 1"),
    ],
)
def test_others_are_refused(given: str, said: str, made: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    assert train(made, tmp_path, "--set", f"train.profile={given}") == 2
    shown = capsys.readouterr().err
    assert "train.profile" in shown
    assert said in shown


def profiler(recipe: ProfileRecipe | None, folder: Path, process: int = 0) -> tuple[StepProfiler, list[Any]]:
    """A profiler, and what it does."""
    done: list[Any] = []

    @contextmanager
    def record(place: Path) -> Iterator[None]:
        done.append(("begin", place.name))
        place.mkdir(parents=True)
        yield
        done.append("end")

    runtime: Any = SimpleNamespace(process_index=process, profile=record)
    return StepProfiler(recipe, folder, runtime, nullcontext, done.append), done


def steps(made: StepProfiler, *numbers: int) -> None:
    for number in numbers:
        made.before(number)
        made.after(number)


def test_just_these_steps_once(tmp_path: Path) -> None:
    made, done = profiler(ProfileRecipe(first=3, last=4), tmp_path)
    steps(made, 1, 2, 3, 4, 5, 3, 4)  # a rollback takes the last ones again
    assert done[:2] == [("begin", "steps-00000003-00000004"), "end"]
    assert len(done) == 3
    assert done[2].startswith("  steps 3 to 4 are traced: raexla profile ")


def test_a_run_that_resumes_among_them_traces_the_rest(tmp_path: Path) -> None:
    made, done = profiler(ProfileRecipe(first=3, last=6), tmp_path)
    steps(made, 5, 6)
    assert done[0] == ("begin", "steps-00000005-00000006")
    assert json.loads((tmp_path / "steps-00000005-00000006" / "steps.json").read_text()) == {"first": 5, "last": 6}


def test_no_trace_without_the_recipe_on_other_processes_or_behind_its_steps(tmp_path: Path) -> None:
    for recipe, process, first in ((None, 0, 1), (ProfileRecipe(first=1, last=2), 1, 1), ("2", 0, 3)):
        made, done = profiler(None if recipe is None else ProfileRecipe.model_validate(recipe), tmp_path, process)
        steps(made, *range(first, 5))
        made.close()
        assert not done


def test_a_run_that_stops_among_them_ends_the_trace(tmp_path: Path) -> None:
    made, done = profiler(ProfileRecipe(first=3, last=9), tmp_path)
    steps(made, 3, 4)
    made.close()
    assert done[1:] == ["end"]


# -- eager --


def test_a_traced_run_is_the_same_run(made: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    assert train(made, tmp_path / "a") == 0
    assert train(made, tmp_path / "b", "--set", "train.profile={first: 3, last: 4}") == 0
    losses = [[record["loss"] for record in read_metrics(tmp_path / name / "run")] for name in "ab"]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    assert not (tmp_path / "a" / "run" / "profile").exists()
    assert "steps 3 to 4 are traced: raexla profile" in capsys.readouterr().err
    assert cli.main(["profile", str(tmp_path / "b" / "run"), "--top", "5"]) == 0
    shown = capsys.readouterr().out
    assert "steps 3 to 4, " in shown
    assert "matrix products" in shown
    assert train(made, tmp_path / "a", "--set", "train.profile=6") == 0  # may change; there is no step left to trace
    assert not (tmp_path / "a" / "run" / "profile").exists()


def test_scalars_are_read_when_the_next_step_has_been_queued(
    made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    compile_step, read = EagerRuntime.compile_step, Scalars.read

    def compiled(self: EagerRuntime, *given: Any) -> Any:
        run = compile_step(self, *given)

        def noted(*arguments: Any) -> Scalars:
            scalars = run(*arguments)
            scalars.number = sum(event.startswith("queue") for event in happened) + 1  # type: ignore[attr-defined]
            happened.append(f"queue {scalars.number}")  # type: ignore[attr-defined]
            return scalars

        return noted

    def noted_read(self: Any) -> dict[str, float]:
        happened.append(f"read {self.number}")
        return read(self)

    monkeypatch.setattr(EagerRuntime, "compile_step", compiled)
    monkeypatch.setattr(Scalars, "read", noted_read)
    assert train(made, tmp_path) == 0
    wanted = ["queue 1"]
    for step in range(1, 6):
        wanted += [f"queue {step + 1}", f"read {step}"]
    assert happened == [*wanted, "read 6"]


# -- XLA --


def test_an_xla_run_traces_and_keeps_its_programs(made: dict[str, str], tmp_path: Path) -> None:
    found = in_process(on_xla, made, str(tmp_path))
    kept = {path.name for path in (tmp_path / "cache" / "process-00000").iterdir()}
    assert found["started_before_the_cache"] is False
    assert found["fallbacks"] == []
    assert len(kept) == found["counters"]["PersistentCacheMiss"] > found["first"]["PersistentCacheMiss"] >= 1
    (file,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    lanes = read_xplane(file.read_bytes()).lanes
    runs = Counter(event.name for lane in lanes for event in lane.events)
    viewer = json.loads(gzip.decompress(next(file.parent.glob("*.trace.json.gz")).read_bytes()))  # XLA's own reading
    wanted = Counter(e["name"] for e in viewer["traceEvents"] if "hlo_op" in e.get("args", {}) and e.get("dur"))
    assert runs == wanted
    assert len(runs) > 50
    read = profile(tmp_path / "run")
    assert read.steps == (4, 5)
    assert {"matrix products", "elementwise", "collectives"} <= {row.name for row in read.kinds}
    # Another process finds the programs. On the CPU they can't be loaded, and are compiled again; a TPU's can.
    again = in_process(one_program, str(tmp_path / "cache"))
    assert "PersistentCacheMiss" not in again
    found_again = again.get("PersistentCacheHit", 0) + again.get("PersistentCacheDeserializeFailure", 0)
    assert found_again == found["first"]["PersistentCacheMiss"]


def test_a_cache_that_can_not_be_is_refused(tmp_path: Path) -> None:
    from raexla.runtime.compile_cache import open_compile_cache

    with pytest.raises(UserError, match=r"runtime.compile_cache gs://b/c: torch_xla keeps .* mounted"):
        open_compile_cache("gs://b/c", tpu=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"runtime.compile_cache .*file: can't be written"):
        open_compile_cache(str(tmp_path / "file"), tpu=False)


def counters() -> dict[str, int]:
    """torch_xla's counters of the cache."""
    import torch_xla.debug.metrics as met

    return {name: int(met.counter_value(name)) for name in met.counter_names() if name.startswith("PersistentCache")}


def on_xla(made: dict[str, str], folder: str) -> dict[str, Any]:
    """Six steps on two devices, two of them traced."""
    import torch_xla
    import torch_xla.runtime as xr

    started, initialize = [], xr.initialize_cache

    def noted(path: str, readonly: bool = False) -> None:
        started.append(torch_xla._XLAC._xla_runtime_is_initialized())
        initialize(path, readonly)

    xr.initialize_cache = noted
    first = one_program(f"{folder}/cache")
    runtime = {"type": "xla", "platform": "cpu", "devices": 2, "compile_cache": f"{folder}/cache"}
    assert train(made, Path(folder), "--set", "train.profile=4-5", runtime=runtime) == 0
    from torch_xla.debug.metrics import counter_names

    fallbacks = [n for n in counter_names() if n.startswith("aten::") and n != "aten::_local_scalar_dense"]
    return {"started_before_the_cache": started[0], "first": first, "counters": counters(), "fallbacks": fallbacks}


def one_program(folder: str) -> dict[str, int]:
    """One compiled function."""
    import numpy as np

    from raexla.runtime import XlaRecipe, open_runtime

    runtime = open_runtime(XlaRecipe(type="xla", platform="cpu", devices=2, compile_cache=folder))
    function = runtime.compile(lambda x: (x @ x.T).softmax(-1).sum())
    runtime.to_host(function(runtime.put({"x": np.ones((4, 8), np.float32)})["x"][0]))
    return counters()
