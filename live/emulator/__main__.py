"""`python -m live.emulator CONFIG.json`."""

import sys

from live.emulator.command import main

sys.exit(main(sys.argv[1:]))
