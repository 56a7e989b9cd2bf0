"""Images to tiles, with torch alone."""
