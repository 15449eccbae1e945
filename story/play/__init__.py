"""A story told live: what visitors are shown, made ahead of them, by a process that a server talks to."""
