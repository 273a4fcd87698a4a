"""The logical mesh `data x fsdp x tensor` and how it lies on the devices."""

from typing import Annotated

from pydantic import Field

from raexla.recipe import Recipe, UserError

AXES = ("data", "fsdp", "tensor")
#: The mesh axes over which the rows of a batch are split.
BATCH_AXES = ("data", "fsdp")


class MeshRecipe(Recipe):
    """Sizes of the mesh axes; at most one may be left out, which takes the devices that remain."""

    data: Annotated[int, Field(ge=1)] | None = 1
    """Replicas of the parameters; gradients are averaged over them."""
    fsdp: Annotated[int, Field(ge=1)] | None = None
    """Devices over which parameters, gradients and optimiser state are split, and the batch too."""
    tensor: Annotated[int, Field(ge=1)] | None = 1
    """Devices that split the width of each layer."""

    def resolve(self, devices: int) -> dict[str, int]:
        """Axis sizes whose product is `devices`.

        Raises:
            UserError: the sizes don't divide or don't fill the devices.
        """
        sizes = {axis: getattr(self, axis) for axis in AXES}
        free = [axis for axis, size in sizes.items() if size is None]
        if len(free) > 1:
            raise UserError(f"mesh: only one axis may be left to fill up, but {' and '.join(free)} are")
        fixed = 1
        for size in sizes.values():
            fixed *= size or 1
        shape = " x ".join(f"{axis}={size or 'rest'}" for axis, size in sizes.items())
        if free:
            if devices % fixed:
                raise UserError(f"mesh: {shape} needs a multiple of {fixed} devices, there are {devices}")
            sizes[free[0]] = devices // fixed
        elif fixed != devices:
            raise UserError(f"mesh: {shape} is {fixed} devices, there are {devices}; leave one axis out to fill up")
        return {axis: int(size or 1) for axis, size in sizes.items()}
