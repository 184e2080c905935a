"""`mmembed index`: one file for each of its commands; `application` puts them together."""
