"""The task families, one builder each, grouped by what they practise."""
