"""`mmembed eval`: one file for each command, a function of the command's name."""
