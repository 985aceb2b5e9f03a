"""Launch script: accelerate launch trainers/train.py --config configs/demo/ours.yaml [--field value ...]"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts this folder first on the path, where its modules would shadow packages of the same name.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    from mmi_plugin.trainers.run import main

    sys.exit(main())
