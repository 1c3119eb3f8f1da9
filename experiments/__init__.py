"""What a claim is: experiments that train, compare and report, and the files that they share.

Each file here is a command, except classifier.py, the interface for notebooks. The packages
ablation, bench, train and transfer are commands too. Run them from the root, as
`python -m experiments.NAME`; `python -m experiments` lists them. The reading path (see README)
contains train/loop.py and ablation/questions.py.
"""

import signal
import sys

# Python calls the file "-m" while it looks for a command. Until the command listens to signals
# itself (cli.py), Ctrl-C ends it without a traceback through the imports.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
