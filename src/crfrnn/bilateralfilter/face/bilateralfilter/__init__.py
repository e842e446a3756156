"""The name `bilateralfilter`, in processes that look for it on their path."""

from crfrnn.bilateralfilter._name import claim

claim()
