"""What packets of each codec say of themselves, read from their headers without decoding."""
