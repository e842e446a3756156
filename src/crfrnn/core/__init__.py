"""The compiled core on NumPy arrays. Nothing here needs torch."""
