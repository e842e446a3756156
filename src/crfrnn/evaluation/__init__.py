"""How good a segmentation is: metrics, boundaries, whole folders."""
