"""LiteRT from its own package where that is installed, else the copy that TensorFlow carries."""

try:
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate

    PACKAGE = "ai-edge-litert"
except ImportError:
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.python.interpreter import Interpreter, OpResolverType, load_delegate

    PACKAGE = "tensorflow"

__all__ = ["PACKAGE", "Interpreter", "OpResolverType", "load_delegate", "schema"]
