"""What a batch is: pictures, from files or drawn by code, become seeded batches.

Read first: batches.py (the contract with the training loop), then synthetic.py (pictures drawn by
code), cifar.py and folder.py (pictures from files, which fit into one uint8 tensor).
Pictures of any size: scan.py (what is in a person's folder), views.py (from a picture to the square
that a network sees), random_batches.py (batches of views); images.py decodes every file.
"""
