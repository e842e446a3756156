"""Data sets and pictures to train and test on."""
