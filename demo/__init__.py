"""The built-in model: procedural clips, their scorer, the training recipe, the checkpoint and its bundle."""
