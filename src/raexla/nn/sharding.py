"""The type of a sharding table: parameter path -> mesh axes, as plain data beside each model family."""

Axis = str | tuple[str, ...] | None
"""What one tensor dim is split over: a mesh axis (`data`, `fsdp`, `tensor`), several of them, or None (not split)."""

ShardingRow = tuple[str, tuple[Axis, ...]]
"""A pattern on the dotted parameter path, in which `*` stands for exactly one component, and one `Axis` for each
dim."""

ShardingTable = list[ShardingRow]
"""The rows for one model. Every parameter matches exactly one row and every row matches some parameter."""
