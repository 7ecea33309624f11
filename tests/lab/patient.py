"""bgpmesh that waits for a minute, and not three seconds, after a restart for peers that do not answer its calls.

    patient.py run --config F          (the arguments are those of bgpmesh)

Of daemons that are started at once on a busy machine the last may begin to answer many seconds after the first has
begun to call, and one that is stopped does not answer at all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bgpmesh import cli

NO_ANSWER_S = 60.0

if __name__ == "__main__":
    with patch("bgpmesh.restart.NO_ANSWER_S", NO_ANSWER_S):
        sys.exit(cli.main())
