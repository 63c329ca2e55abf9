"""What holds while members and brokers are killed, frozen and cut off."""
