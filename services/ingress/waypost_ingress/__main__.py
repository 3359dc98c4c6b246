"""`python -m waypost_ingress`: how the supervisor starts its workers."""

import sys

from .main import main

sys.exit(main())
