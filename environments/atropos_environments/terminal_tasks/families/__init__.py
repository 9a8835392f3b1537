"""The task families, one builder each, grouped by the skill that they train."""
