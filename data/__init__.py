"""What a batch is: images, from files or drawn by code, become seeded batches.

See batches.py (the interface to the training loop), then dataset.py (images that fit into
one uint8 tensor: drawn by synthetic.py, CIFAR-10 by cifar.py, or read from a folder).
Images of any size: folders.py (what is in a user's folder; listing.py and duplicates.py below it),
views.py (from an image to the square that a network sees), view_batches.py (batches of views),
collection.py (a folder made ready for training; decoding.py and store.py below it).
images.py decodes every file.
"""
