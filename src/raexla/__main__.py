"""`python -m raexla`, the same as `raexla`."""

import sys

from raexla.cli import main

sys.exit(main())
