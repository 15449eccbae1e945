"""Bundle to video: everything a device needs to run a reel, with no torch in it."""
