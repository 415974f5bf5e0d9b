"""``python -m openrouter_async``: the command line."""

import sys

from openrouter_async.cli import main

sys.exit(main())
