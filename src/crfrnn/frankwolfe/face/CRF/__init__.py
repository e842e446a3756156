"""The name `CRF` for `crfrnn.frankwolfe`, in processes that look for it on their path."""

from crfrnn.frankwolfe._name import claim

claim()
