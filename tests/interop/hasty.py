"""bgpmesh that gives up a peer who takes nothing after twice the hold time, without the eight minutes of RFC 9687.

hasty.py run --config F          (the arguments are those of bgpmesh)
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bgpmesh import cli

LOOK_S = 1.0  # between looks at who takes nothing

if __name__ == "__main__":
    with patch("bgpmesh.peering.connection.SEND_HOLD_S", 0.0), patch("bgpmesh.wire.speaker.STALL_S", LOOK_S):
        sys.exit(cli.main())
