"""Meshes and sharding tables: pure functions, checked both ways."""

import pytest

from raexla.recipe import UserError
from raexla.runtime import MeshRecipe
from raexla.runtime.sharding import ShardingTableError, prefixed, resolve

SHAPES = {"blocks.0.w": (8, 4), "blocks.1.w": (8, 4), "blocks.0.b": (8,), "blocks.1.b": (8,)}
TABLE = [("blocks.*.w", ("tensor", "fsdp")), ("blocks.*.b", (None,))]


def test_mesh_fills_the_axis_that_is_left_out() -> None:
    assert MeshRecipe().resolve(8) == {"data": 1, "fsdp": 8, "tensor": 1}
    assert MeshRecipe(data=2, tensor=2).resolve(8) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert MeshRecipe(data=None, fsdp=4).resolve(8) == {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (MeshRecipe(data=3), "multiple of 3 devices, there are 4"),
        (MeshRecipe(data=2, fsdp=4), "is 8 devices, there are 4"),
        (MeshRecipe(data=None), "only one axis"),
    ],
)
def test_mesh_that_does_not_fit_names_both_numbers(mesh: MeshRecipe, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mesh.resolve(4)


def test_every_parameter_gets_its_row() -> None:
    resolved = resolve(TABLE, SHAPES)
    assert resolved["blocks.1.w"] == ("tensor", "fsdp")
    assert resolved["blocks.0.b"] == (None,)
    inside = {f"dit.{name}": shape for name, shape in SHAPES.items()}
    assert set(resolve(prefixed("dit", TABLE), inside)) == set(inside)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[:1], r"blocks.0.b \[8\] matches no row"),
        ([*TABLE, ("blocks.0.*", (None,))], "matches blocks.*.* and blocks.0"),
        ([*TABLE, ("head.w", (None, None))], "row head.w matches no parameter"),
        ([TABLE[0], ("blocks.*.b", (None, None))], "has 1 dims, row blocks.*.b has 2"),
        ([TABLE[0], ("blocks.*.b", ("fsdpp",))], "names fsdpp"),
        ([("blocks.*.w", ("fsdp", "fsdp")), TABLE[1]], "uses an axis twice"),
        ([("*.w", ("fsdp", None)), TABLE[1]], "matches no row"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table: list, message: str) -> None:
    with pytest.raises(ShardingTableError, match=message):
        resolve(table, SHAPES)
