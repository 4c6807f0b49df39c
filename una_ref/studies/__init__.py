"""Studies: methods compared with each other and with the exact optimum, through one engine."""
