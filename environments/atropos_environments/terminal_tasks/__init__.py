"""Shell tasks made from a seed, judged by what the sandbox really contains and by the final answer."""
