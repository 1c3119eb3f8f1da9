"""What a batch is: pictures become one uint8 tensor, and a tensor becomes seeded batches.

Read first: batches.py (the contract with the training loop), then synthetic.py (pictures drawn by
code), cifar.py and folder.py (pictures from files).
"""
