"""The base class of every recipe object."""

from pydantic import BaseModel, ConfigDict


class Recipe(BaseModel):
    """A frozen, typed record in which unknown keys are refused.

    A field's docstring (the string literal under it) is its description in the JSON schema. Choices between kinds
    are tagged unions: each arm has a field `type: Literal["name"]`, and the union is written
    `Annotated[A | B, Field(discriminator="type")]`. Numbers are finite; "no limit" is `None`, not infinity.

    Recipes read from YAML are validated strictly (no `"3"` for 3, no 1 for true; a whole number is fine where a float
    is wanted); objects built in Python may use lists for tuples and strings for paths.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),  # the top-level key is called `model`
    )
