"""`python -m bgpmesh` is the command."""

from __future__ import annotations

import sys

from bgpmesh.cli import main

sys.exit(main())
