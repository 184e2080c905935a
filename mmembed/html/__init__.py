"""Pages of results: escaped elements, SVG charts, thumbnails; one file without any address."""
