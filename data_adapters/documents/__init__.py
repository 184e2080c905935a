"""Pages of documents and what is asked of them: as pictures in tables, and as PDF files."""
