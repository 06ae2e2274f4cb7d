"""Import kserve safely: on import it parses the program's own arguments, so it is shown none of them."""

import sys

_arguments = sys.argv
sys.argv = sys.argv[:1]
try:
    import kserve
    import kserve.model_server  # noqa: F401
finally:
    sys.argv = _arguments
