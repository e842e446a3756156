"""A page in the browser for choosing the CRF's parameters by looking; `crfrnn app` opens it."""
