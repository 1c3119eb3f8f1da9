"""Experiments that train, compare and report, and the modules that they share.

Each file here is a command, except classifier.py, the interface for notebooks. The packages
ablation, anatomy, bench, train and transfer are commands too. Run them from the root, as
`python -m experiments.NAME`; `python -m experiments` lists them. The reading path (see README)
contains train/loop.py and ablation/questions.py.
"""

import importlib.util
import signal
import sys

STARTING = sys.argv[0] == "-m"  # while Python looks for the command's module

if STARTING and importlib.util.find_spec("tyro") is None:
    sys.exit(
        f"the libraries are not installed for this Python\n{sys.executable}\n"
        "source .venv/bin/activate (after make setup); or pip install -e '.[experiments]'"
    )

# Until the command handles signals itself (cli.py), Ctrl-C ends it without a traceback through the
# imports.
if STARTING and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
