"""The web page of an index: search with text, pictures, clips and pages, look at what was found."""
