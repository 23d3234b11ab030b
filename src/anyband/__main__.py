"""`python -m anyband`."""

import sys

from anyband.cli import main

sys.exit(main())
