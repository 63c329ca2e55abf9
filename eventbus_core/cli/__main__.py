"""``python -m eventbus_core.cli``: the command where no script is on the path, as in the processes of a supervisor."""

import sys

from eventbus_core.cli import main

sys.exit(main())
