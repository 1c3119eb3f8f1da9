"""What every command needs and no claim depends on: options, devices, files, signals."""
