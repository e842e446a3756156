"""The CRF as a layer of a network: CRFRNN, its loss, its parameters and its storage."""
