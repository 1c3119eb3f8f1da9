"""Infrastructure of the commands, on which no result depends: options, devices, files, signals."""
