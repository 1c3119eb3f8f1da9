"""Turns images, from files or synthetic, into seeded batches.

See batches.py (the interface to the training loop), then dataset.py (images that fit into one
uint8 tensor: from synthetic.py, CIFAR-10 from cifar.py, or read from a folder).
Images of any size: folders.py (the classes and splits of a user's folder; uses layout.py,
listing.py and duplicates.py), near_duplicates.py (compares images across splits), views.py (crops
and resizes an image to the network's input), view_batches.py (batches of views), collection.py
(prepares a folder for training; uses decoding.py and store.py).
images.py decodes every image file.
"""
