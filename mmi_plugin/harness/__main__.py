"""python -m mmi_plugin.harness: the same as the console script `lmms_eval`."""

import sys

from mmi_plugin.harness.launcher import main

if __name__ == "__main__":
    sys.exit(main())
