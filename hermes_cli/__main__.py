"""`python -m hermes_cli`, which is `hermes`."""

import sys
from pathlib import Path

# Python looks first into the folder that this is typed in, where a user's own train.py or json.py may lie.
if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).parents[1]:
    del sys.path[0]

from hermes_cli.main import main

main()
