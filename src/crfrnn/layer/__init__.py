"""The CRF as a layer of a network: CRFRNN, its losses, what it learns and how it is stored."""
