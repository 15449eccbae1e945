"""Pictures of the documentation that are made anew when the built-in model or the page changes."""
