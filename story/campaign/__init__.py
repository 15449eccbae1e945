"""A sheet becomes a campaign: one video for each row."""
