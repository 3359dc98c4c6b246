"""`python -m waypost_cli` is `waypost`."""

import sys

from .main import main

sys.exit(main())
