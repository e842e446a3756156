"""The name `pydensecrf` for `crfrnn.pydensecrf`, in processes that look for it on their path."""

from crfrnn.pydensecrf._name import claim

claim(__path__)
