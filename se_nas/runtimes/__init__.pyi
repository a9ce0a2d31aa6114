from .bench import export_bench as export_bench
from .latency_table import read_table as read_table
from .table import open_runtimes as open_runtimes
