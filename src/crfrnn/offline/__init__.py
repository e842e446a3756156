"""refine(): arrays in, arrays out."""
