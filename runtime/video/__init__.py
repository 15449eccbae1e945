"""Writing pictures to files: MP4, GIF, WebP, PNG."""
