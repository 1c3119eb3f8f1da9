"""What a claim is: experiments that train, compare and report, and the files that they share.

The files here are commands, but for classifier.py, the interface for notebooks; so are the packages
ablation, bench, train and transfer. Run them from the root, as `python -m experiments.NAME`;
`python -m experiments` lists them. The reading path goes through train/loop.py and ablation/questions.py.
"""

import signal
import sys

# Python calls the file "-m" while it looks for a command. Until the command listens to signals
# itself (cli.py), Ctrl-C ends it without a traceback through the imports.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
