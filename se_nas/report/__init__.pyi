from .page import Page as Page
from .page import write_page as write_page
from .run_page import run_page as run_page
from .view import View as View
