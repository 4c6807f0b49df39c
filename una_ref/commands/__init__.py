"""What each command of the command line does: its arguments, and the text that it prints."""
