"""peering."""
