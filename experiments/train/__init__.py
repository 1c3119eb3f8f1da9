"""Training: the loop (loop.py), and a command that trains one network with it."""
