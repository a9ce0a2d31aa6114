from .results import SearchResult as SearchResult
from .results import report_again as report_again
