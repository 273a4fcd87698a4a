"""Derived buffers: tables that follow from a module's sizes, and are therefore not saved."""

from torch import nn


class TableModule(nn.Module):
    """A module with derived, non-persistent buffers."""

    def reset_tables(self) -> None:
        """Fill the derived buffers in place, on the device where they are."""
        raise NotImplementedError


def reset_tables(root: nn.Module) -> None:
    """Fill every derived buffer under `root`. Call it after `to_empty`, which leaves buffers undefined."""
    for module in root.modules():
        if isinstance(module, TableModule):
            module.reset_tables()
