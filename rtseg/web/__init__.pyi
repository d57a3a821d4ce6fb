"""A page that segments in the browser: its files, its networks, its server, and a coat for somebody else's ONNX graph."""

from .foreign import Foreign as Foreign
from .foreign import foreign_network as foreign_network
from .page import PageNetwork as PageNetwork
from .page import page_network as page_network
from .page import write_page as write_page
from .runtime_files import onnxruntime_web as onnxruntime_web
