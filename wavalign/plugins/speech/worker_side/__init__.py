"""What a worker imports: the one module here, on its search path, without WavAlign."""
