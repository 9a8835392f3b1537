"""Messages to exact token ids, and what follows a completion until the next one. Knows nothing of HTTP."""

from atropos_agent.renderer.certificate import Certificate
from atropos_agent.renderer.renderer import Bridge, Rendered, Renderer

__all__ = ["Bridge", "Certificate", "Rendered", "Renderer"]
