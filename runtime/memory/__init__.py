"""How much memory a clip takes, and how it is made to fit."""
