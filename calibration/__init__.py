"""Choose where a model's precision may go, and prove what was lost."""
