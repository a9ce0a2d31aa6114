from .build import open_executor as open_executor
from .inline import InlineExecutor as InlineExecutor
from .local import LocalExecutor as LocalExecutor
from .ray import RayExecutor as RayExecutor
