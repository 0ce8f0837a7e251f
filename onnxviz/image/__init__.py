"""Reading, preparing and drawing images."""
