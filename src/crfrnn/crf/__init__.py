"""The model and its inference: tensors in, tensors out."""
