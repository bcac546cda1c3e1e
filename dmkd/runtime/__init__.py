"""What every long run needs: devices, progress, signals, failures, whole files, Ray."""
