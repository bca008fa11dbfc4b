"""Rows multiplied by a function of others, element by element: SwiGLU, gated norms, gated heads, a shared expert's share."""
