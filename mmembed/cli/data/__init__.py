"""`mmembed data`: one file for each command, a function of the command's name."""
