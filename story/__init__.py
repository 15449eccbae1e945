"""A script becomes a film, a sheet becomes a campaign."""
