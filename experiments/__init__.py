"""Claims that can be checked and results that can be had again; and what they are built from.

The commands run from the repository's root as `python -m experiments.NAME`.
"""

import signal
import sys

# Python calls the file "-m" while it looks for a command. Until the command listens to signals
# itself (cli.py), Ctrl-C ends it without a traceback through the imports.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
