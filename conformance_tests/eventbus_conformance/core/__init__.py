"""What every backend does, whatever it declares."""
