"""Reading and writing images, label maps and scores."""
