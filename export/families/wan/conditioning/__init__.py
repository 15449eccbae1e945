"""What Wan's denoisers are told beside noise, words and one noise level: held frames, pictures, earlier frames."""
