"""Training from latents is training from the pictures: losses, order, refusals, resume; others' latents are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raexla.checkpoint import write_artifact
from raexla.recipe import UserError
from raexla.sampling.codec import encoder_identity
from tests import stages
from tests.unit.train import latent_world

STEPS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return latent_world.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def latents(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stored type -> the folder of its latents."""
    root = tmp_path_factory.mktemp("latents")
    for dtype in ("float32", "float16", "bfloat16"):
        latent_world.store(latent_world.recipe(made, root), root / dtype, dtype=dtype)
    return {dtype: root / dtype for dtype in ("float32", "float16", "bfloat16")}


def _losses(values: dict[str, Any]) -> np.ndarray:
    task, runtime = stages.open_stage(values)
    trace = stages.run_steps(task, runtime, STEPS)
    return np.array([[s["loss"], s["loss/language"], s["loss/diffusion"]] for s in trace.scalars])


@pytest.fixture(scope="module")
def expected(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Losses with the pictures."""
    return _losses(latent_world.recipe(made, tmp_path_factory.mktemp("pictures")))


def test_losses_are_those_of_the_pictures(made, latents, expected, tmp_path):
    gaps = {}
    for dtype, folder in latents.items():
        found = _losses(latent_world.recipe(made, tmp_path, folder, dtype))
        gaps[dtype] = float(np.abs(found / expected - 1).max())
    assert gaps["float32"] < 1e-6
    assert gaps["float16"] < 2e-5
    assert gaps["bfloat16"] < 2e-4
    assert gaps["float16"] < gaps["bfloat16"], "as many bytes, and nearer"


def test_statistics_that_come_later_do_not_make_latents_stale(made, latents, expected, tmp_path):
    """The latents were made without any; the step normalises them. Latents that it left as they are would show."""
    rng = np.random.default_rng(0)
    arrays = {"mean": rng.normal(size=(16, 24)) * 0.3, "var": rng.uniform(0.5, 2.0, size=(16, 24))}
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    facts = {"encoder": encoder_identity(made["encoder"])}
    write_artifact(tmp_path / "statistics", "statistics", arrays, facts, {})

    def normalised(values: dict[str, Any]) -> dict[str, Any]:
        return values | {"codec": values["codec"] | {"statistics": {"path": str(tmp_path / "statistics")}}}

    pictures = _losses(normalised(latent_world.recipe(made, tmp_path)))
    found = _losses(normalised(latent_world.recipe(made, tmp_path, latents["float32"])))
    assert np.abs(found / pictures - 1).max() < 1e-5  # questions' features go through the statistics and back
    assert np.abs(pictures[:, 2] / expected[:, 2] - 1).max() > 1e-3


def _walk(values: dict[str, Any], steps: int, cursor: Any = None) -> list[tuple[Any, ...]]:
    task, _ = stages.open_stage(values)
    with task.open_loader(cursor) as loader:
        batches = [next(loader) for _ in range(steps)]
    return [
        (batch.uids, [row.as_dict()["uid"] + row.reason for row in batch.refused], batch.epochs,
         {name: array.tobytes() for name, array in batch.arrays.items() if not name.endswith(("pixels", "latent"))},
         batch.cursor)
        for batch in batches
    ]  # fmt: skip


def test_order_refusals_cursor_and_resume_are_those_of_the_pictures(made, latents, tmp_path):
    with_pictures = latent_world.recipe(made, tmp_path)
    values = latent_world.recipe(made, tmp_path, latents["float16"], "float16")
    for recipe in (with_pictures, values):
        recipe["data"]["loader"] = {"max_bad_fraction": 0.2}
    pictures = _walk(with_pictures, 9)
    stored = _walk(values, 9)
    assert [batch[:4] for batch in stored] == [batch[:4] for batch in pictures]
    assert sum(len(batch[1]) for batch in stored) >= 3, "damaged pictures were met"
    assert _walk(values, 3, cursor=stored[5][4]) == stored[6:]
    places = [{key: value for key, value in batch[4].items() if key != "order"} for batch in (stored[3], pictures[3])]
    assert places[0] == places[1]


def test_a_planned_batch_is_a_real_one(made, latents, tmp_path):
    for dtype in ("float16", "bfloat16"):
        task, _ = stages.open_stage(latent_world.recipe(made, tmp_path, latents[dtype], dtype))
        with task.open_loader(None) as loader:
            real = {name: (array.shape, array.dtype.type) for name, array in next(loader).arrays.items()}
        assert task.batch_shapes() == real
        assert real["generation/latent"] == ((16, 16, 24), np.float16 if dtype == "float16" else np.float32)
        assert "generation/pixels" not in real


def test_the_encoder_is_no_work_any_more(made, latents, tmp_path):
    with_pictures = stages.open_stage(latent_world.recipe(made, tmp_path))[0].flops_per_step()
    without = stages.open_stage(latent_world.recipe(made, tmp_path, latents["float32"]))[0].flops_per_step()
    half = latent_world.recipe(made, tmp_path)
    half["data"]["sources"][0] |= {"path": str(latents["float32"] / "captions"), "latents": "float32"}
    between = stages.open_stage(half)[0].flops_per_step()
    assert (with_pictures - between) / (with_pictures - without) == pytest.approx(2 / 3)


def _refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        stages.open_stage(values)[0].open_loader(None)


def test_latents_of_something_else_are_refused(made, latents, tmp_path):
    folder = latents["float32"]
    values = latent_world.recipe(made, tmp_path, folder)
    other = {"type": "rae", "encoder": {"type": "siglip2", "path": made["other"]}}
    _refused(values | {"codec": other}, r"the latents of .*captions were made otherwise: codec.encoder \w+, here \w+")
    summed = {**values["codec"], "encoder": values["codec"]["encoder"] | {"sum_last": 2}}
    _refused(values | {"codec": summed}, "codec.reading.sum_last 1, here 2")
    _refused(values | {"transform": {"type": "centre_crop", "size": 32}}, "transform.type squash, here centre_crop")
    _refused(values | {"transform": {"type": "squash", "size": 32, "filter": "bilinear"}}, "transform.filter bicubic")
    _refused(values | {"transform": {"type": "random_crop", "size": 32}}, "random_crop: it gives another picture")
    _refused(latent_world.recipe(made, tmp_path, folder, "float16"), "dtype float32, here float16")
    unsaid = latent_world.recipe(made, tmp_path, folder)
    del unsaid["data"]["sources"][0]["latents"]
    _refused(unsaid, "captions holds latents, no pictures; write `latents: float32` there")
    shutil.copytree(folder, tmp_path / "bare")
    (tmp_path / "bare" / "captions" / "latents.json").unlink()
    _refused(latent_world.recipe(made, tmp_path, tmp_path / "bare"), "has no latents.json: `raexla latents` makes them")
    record = json.loads((folder / "captions" / "latents.json").read_text())
    (tmp_path / "bare" / "captions" / "latents.json").write_text(json.dumps(record | {"version": 2}))
    _refused(latent_world.recipe(made, tmp_path, tmp_path / "bare"), "version 2, this program reads .* version 1")


def test_a_group_holds_latents_or_pictures(made, latents, tmp_path):
    values = latent_world.recipe(made, tmp_path, latents["float32"])
    values["data"]["sources"].append({"name": "more", "path": made["pretrain"], "kind": "caption", "weight": 1})
    with pytest.raises(UserError, match=r"group 'generation' must hold latents.*captions: float32, more: pictures"):
        stages.open_stage(values)


def test_pictures_may_be_held_out_of_a_run_on_latents(made, latents, tmp_path):
    """Validation losses of pictures and of their latents are the same."""
    found = []
    for sources in (latent_world.recipe(made, tmp_path), latent_world.recipe(made, tmp_path, latents["float32"])):
        values = latent_world.recipe(made, tmp_path, latents["float32"])
        values["eval"] = {"every_steps": 2, "sources": sources["data"]["sources"], "batches": 1}
        task, _ = stages.open_stage(values)
        found.append(task.evaluate(0, tmp_path))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
