"""Metrics survive kills: a resumed run's records continue the surviving lineage."""

from pathlib import Path

from raexla.obs import Clock, Metrics, ObsRecipe, read_metrics

QUIET = ObsRecipe(tensorboard=False)


def test_records_are_cut_back_to_the_restored_step_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    first = Metrics(tmp_path, QUIET, 0, {})
    for step in (1, 2, 3, 4):
        first.write(step, {"loss": 1.0 / step})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4]
    second = Metrics(tmp_path, QUIET, 2, {})
    second.write(3, {"loss": 7.0})
    second.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 7.0)]


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, ObsRecipe(), 0, {})
    metrics.write(1, {"loss": 2.0, "phase": "l1"})
    metrics.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert events.Scalars("loss")[0].value == 2.0


def test_goodput_counts_what_is_not_training_against_it() -> None:
    clock = Clock()
    clock.began -= 10.0
    clock.add("compile", 4.0)
    clock.add("input_wait", 1.0)
    assert abs(clock.goodput() - 0.5) < 0.01
