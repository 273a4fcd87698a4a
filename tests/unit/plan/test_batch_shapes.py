"""A plan traces the step on the shapes that training's batches have."""

from tests import stages


def test_planned_batches_have_the_shapes_of_real_ones(tmp_path):
    made = stages.world(tmp_path)
    decoder, _ = stages.open_stage(stages.decoder(made, tmp_path / "run"))
    decoder.export(tmp_path / "decoder", {})
    codec = {
        "type": "rae",
        "encoder": {"type": "siglip2", "path": made["encoder"]},
        "weights": {"path": str(tmp_path / "decoder")},
    }
    task, _ = stages.open_stage(stages.pretrain(made, tmp_path / "pretrain", codec=codec))
    with task.open_loader(None) as loader:
        arrays = next(loader).arrays
    assert {name: (array.shape, array.dtype.type) for name, array in arrays.items()} == task.batch_shapes()
