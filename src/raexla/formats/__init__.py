"""Other people's checkpoint layouts, in and out.

Reading: `source.py` opens a released file or folder without loading it, `importing.py` decides what it is and makes an
artifact of it; `scale_rae.py` and `rae.py` know what the two code bases' configurations and shapes mean. Nothing is
written unless every key is accounted for: which released key holds which tensor say the models' own `official.py`.
Writing: `exporting.py` goes the other way with the same tables, `diffusers.py` makes an `AutoencoderRAE`, `card.py` the
README of an exported folder. Weights go from file to file tensor by tensor (`stream.py`): a model larger than memory
can be imported.
"""

from raexla.formats.exporting import ExportOptions, export_artifact
from raexla.formats.importing import KINDS, ImportOptions, import_released
from raexla.formats.show import show_artifact

__all__ = ["KINDS", "ExportOptions", "ImportOptions", "export_artifact", "import_released", "show_artifact"]
