"""What the server answers, by topic; `routes.py` lists the paths."""
