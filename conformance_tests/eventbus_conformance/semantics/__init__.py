"""What backends declare beyond the core, and the finer points of groups and topics."""
