"""Search for the parameters of a dense CRF on the scores of training images."""

from .config import SearchConfig, TuneConfig
from .run import Tuned, tune
from .scored import Scored
from .search import Found, search

__all__ = ["Found", "Scored", "SearchConfig", "TuneConfig", "Tuned", "search", "tune"]
