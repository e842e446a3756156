"""Refining on a cluster, with Ray: a million photographs in a bucket, or a manifest of them."""

from .jobs import Report, Row, refine
from .pool import Cluster

__all__ = ["Cluster", "Report", "Row", "refine"]
